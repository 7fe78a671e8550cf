"""Mail: writes to users over SMTP. It may be down for an hour, and nobody at the counter notices.

SMTP delivers at least once: the `Message-ID` is derived from the message's id, so that a mailbox can drop a repeat.
"""

import os
import smtplib
from email.message import EmailMessage

from contracts import Mail, User

from ringpost import Reject, Service
from ringpost.blocking import Context

mail = Service(Mail)


def letter(user: User, message_id: str) -> EmailMessage:
    """Write the letter."""
    made = EmailMessage()
    made["From"] = "shop@example.com"
    made["To"] = user.email
    made["Subject"] = f"Welcome, {user.name}"
    made["Message-ID"] = f"<{message_id}@shop.example.com>"
    made.set_content(f"Dear {user.name},\n\nyour account {user.id} is ready.\n")
    return made


def post_office() -> smtplib.SMTP:
    """Connect to the SMTP server."""
    host, _, port = os.environ.get("SHOP_SMTP", "127.0.0.1:8025").partition(":")
    return smtplib.SMTP(host, int(port), timeout=10)


@mail.implements(Mail.welcome, concurrency=8)
def welcome(user: User, ctx: Context) -> None:
    """Send the letter. An ordinary function: it runs in a thread and may block."""
    try:
        with post_office() as smtp:
            smtp.send_message(letter(user, ctx.message_id))
    except smtplib.SMTPRecipientsRefused as refused:
        code, reason = refused.recipients[user.email]
        if code >= 550:
            raise Reject(f"{user.email}: {code} {reason.decode()}") from None
        raise
