# mypy: ignore-errors
"""FastStream on NATS JetStream, a durable push consumer."""

import logging

import common
import nats
from faststream import FastStream
from faststream.nats import JStream, NatsBroker
from nats.js.api import ConsumerConfig

broker = NatsBroker(common.URL, logger=None)
stream = JStream(name="FS", subjects=["fs.>"], declare=True)


@broker.subscriber("fs.a", stream=stream, durable="fs", config=ConsumerConfig(max_ack_pending=20_000))
async def noop(payload: dict) -> None:
    common.hit(payload)


app = FastStream(broker)


async def asetup():
    await broker.connect()
    connection = await nats.connect(common.URL)
    await connection.jetstream().add_stream(name="FS", subjects=["fs.>"])
    await connection.close()


async def asend(payload):
    await broker.publish(payload, "fs.a", stream="FS")


def worker():
    import uvloop

    logging.disable(logging.CRITICAL)
    uvloop.run(app.run(log_level=logging.CRITICAL))


if __name__ == "__main__":
    import q_faststream

    common.run(q_faststream)
