"""A view that writes an order and sends its confirmation in one commit.

On PostgreSQL the message goes into the store's own tables, which are in the same database: RINGPOST_STORE=$ORDERS_DB.
On SQLite it goes into the table ringpost_outbox beside the orders, made once by `ringpost outbox create --outbox
$ORDERS_DB`, and a relay brings it to the store; the view needs none.
"""

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse

from orders.mail import Confirmation, Mail
from orders.models import Order
from ringpost.blocking import Client

STOCK = ("pen", "tea")
client = Client()  # of the store in RINGPOST_STORE, if any; opens at first use, anew in each process that forks


class NotInStock(Exception):
    """Take back the order, and with it the message."""


def place(request: HttpRequest) -> JsonResponse:
    """Take an order: POST item=pen."""
    item = request.POST["item"]
    try:
        with transaction.atomic():
            order = Order.objects.create(item=item)
            receipt = client.outbox(connection).send(Mail.confirm, Confirmation(order.pk))
            if item not in STOCK:
                raise NotInStock
    except NotInStock:
        return JsonResponse({"error": f"we have no {item}"}, status=409)
    return JsonResponse({"message": receipt.id})
