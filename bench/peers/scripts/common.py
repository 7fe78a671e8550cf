# mypy: ignore-errors
"""Shared by the queue peers: the probe in the worker, and the sender's command line.

A peer module defines its task, which calls `hit(payload)`, and
  worker()               run one worker process (may exec the peer's own command)
  send(p) or asend(p)    enqueue one message, durable when it returns
  asetup()    optional   open connections in the sender, make what the worker needs
  asend_all(ps) optional enqueue many at once, as the peer does that
"""

import asyncio
import json
import logging
import mmap
import os
import struct
import sys
import threading
import time

URL = os.environ.get("BENCH_URL", "")
DIR = os.environ["BENCH_DIR"]
CAP = int(os.environ["BENCH_CAP"])
HEAD = 32
WARM_UP = 20
logging.disable(logging.WARNING)  # no peer pays for a line of log per task

_pid = None
_marks = None
_count = 0
_lock = threading.Lock()
_put_float = struct.Struct("d").pack_into
_put_int = struct.Struct("q").pack_into


def _open():
    global _pid, _marks, _count
    _pid = os.getpid()
    size = HEAD + 8 * CAP
    file = os.open(f"{DIR}/probe-{_pid}", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, size)
    _marks, _count = mmap.mmap(file, size), 0
    _put_float(_marks, 8, time.time())
    _put_float(_marks, 24, time.process_time())


def hit(payload):
    """Note one task that is done: how many, first and last time, its age if it carries the time of sending."""
    global _count
    now = time.time()
    sent_at = payload["ts"]
    with _lock:  # several peers run tasks in threads
        if _pid != os.getpid():
            _open()
        _put_float(_marks, HEAD + 8 * (_count % CAP), now - sent_at if sent_at else -1.0)
        _put_float(_marks, 16, now)
        _count += 1
        _put_int(_marks, 0, _count)


def make(number, sent_at=0.0):
    return {
        "user_id": 100_000 + number,
        "email": f"user{100_000 + number}@example.com",
        "plan": "premium",
        "ts": sent_at,
    }


def run(module):
    command = sys.argv[1]
    if command == "worker":
        module.worker()
    elif hasattr(module, "asend"):
        import uvloop

        uvloop.run(_asender(module, command))
    else:
        _sender(module, command)
    sys.stdout.flush()
    os._exit(0)


async def _asender(module, command):
    await module.asetup()
    if command == "enqueue":
        singles, bulk = int(sys.argv[2]), int(sys.argv[3])
        began = time.perf_counter()
        for number in range(singles):
            await module.asend(make(number))
        between = time.perf_counter()
        step, send_all = (1000, module.asend_all) if hasattr(module, "asend_all") else (100, _at_once(module.asend))
        for at in range(0, bulk, step):
            await send_all([make(singles + at + number) for number in range(min(step, bulk - at))])
        ended = time.perf_counter()
        print(json.dumps({"seq": singles / (between - began), "bulk": bulk / (ended - between) if bulk else 0}))
    else:
        count, gap = int(sys.argv[2]), float(sys.argv[3])
        for number in range(-WARM_UP, count):
            await asyncio.sleep(gap)
            await module.asend(make(WARM_UP + number, time.time() if number >= 0 else 0.0))
        print(json.dumps({"took": count}))


def _at_once(asend):
    async def send_all(payloads):
        await asyncio.gather(*[asend(payload) for payload in payloads])

    return send_all


def _sender(module, command):
    if command == "enqueue":
        singles = int(sys.argv[2])
        began = time.perf_counter()
        for number in range(singles):
            module.send(make(number))
        print(json.dumps({"seq": singles / (time.perf_counter() - began), "bulk": 0}))
    else:
        count, gap = int(sys.argv[2]), float(sys.argv[3])
        for number in range(-WARM_UP, count):
            time.sleep(gap)
            module.send(make(WARM_UP + number, time.time() if number >= 0 else 0.0))
        print(json.dumps({"took": count}))
