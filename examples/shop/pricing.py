"""Pricing: two seconds an answer, as slow suppliers are. `ringpost run pricing:pricing`"""

import asyncio

from contracts import Item, Price, Pricing

from ringpost import Service

SUPPLIER_S = 2.0
pricing = Service(Pricing)


@pricing.implements(Pricing.quote)
async def quote(item: Item) -> Price:
    await asyncio.sleep(SUPPLIER_S)
    return Price(sku=item.sku, cents=item.pieces * (100 + sum(item.sku.encode()) % 900))
