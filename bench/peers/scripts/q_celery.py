# mypy: ignore-errors
"""Celery on Redis: one prefork process, late acknowledgement, so that a lost worker loses no task."""

import os
import sys

import common
from celery import Celery

app = Celery("q_celery", broker=common.URL)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
    task_serializer="json",
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@app.task(name="noop")
def noop(payload):
    common.hit(payload)


def send(payload):
    noop.delay(payload)


def worker():
    program = os.path.join(os.path.dirname(sys.executable), "celery")
    calm = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    os.execv(program, ["celery", "-A", "q_celery", "worker", "--pool", "prefork", "-c", "1", "-l", "ERROR", *calm])


if __name__ == "__main__":
    import q_celery

    common.run(q_celery)
