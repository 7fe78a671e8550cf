"""Messages and settlements as the store's port takes them, for parts that use the store without a service."""

import random
import time

import msgspec

from bench.parts.contract import job
from ringpost.core import ids
from ringpost.core.message import Answer, Delivery, Envelope, Message, Settlement, State

QUEUE = "bench.work"
HOLDER = 7
_HEADERS = msgspec.json.encode(Envelope(operation=QUEUE))
_NO_CONTENT = Answer(204)


def messages(count: int, first: int = 0) -> list[Message]:
    now_ms = time.time_ns() // 1_000_000
    return [
        Message(ids.uuid7(now_ms, random.getrandbits(74)), QUEUE, msgspec.json.encode(job(first + number)), _HEADERS)
        for number in range(count)
    ]


def settlements(deliveries: list[Delivery]) -> list[Settlement]:
    return [Settlement(delivery, State.SUCCEEDED, _NO_CONTENT) for delivery in deliveries]
