"""How processes share the rate at which a queue is drained after a maintenance window."""

from types import SimpleNamespace
from typing import Any, cast

from ringpost.core import notes
from ringpost.core.maintenance import Drain, Window
from ringpost.service.maintenance import Maintenance
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note

NOW_MS = 1_000_000


async def test_each_process_has_its_share_of_the_rate() -> None:
    store = MemoryStore()
    await store.open(create=True)
    window = Window(NOW_MS, 40.0)
    await store.note_put(Note(notes.maintenance("shop"), notes.encode(window)))
    for id, instance in {
        "one": notes.Instance(queues=("shop.buy",)),
        "three workers of a command": notes.Instance(queues=("shop.buy", "shop.sell"), processes=3),
        "another service": notes.Instance(queues=("mail.thank",), processes=5),
    }.items():
        await store.note_put(Note(notes.instance(id), notes.encode(instance), lease_s=60.0))
    handlers = [SimpleNamespace(service="shop", queue=queue) for queue in ("shop.buy", "shop.sell", "shop.unknown")]
    slowed: dict[str, Drain] = {}
    maintenance = Maintenance(
        store, cast(Any, handlers), lambda _: cast(Any, SimpleNamespace(shut=lambda _: None)), lambda: NOW_MS
    )
    maintenance.slow = slowed.__setitem__
    await maintenance.look()
    assert {queue: drain.rate for queue, drain in slowed.items()} == {
        "shop.buy": 10.0,
        "shop.sell": 40 / 3,
        "shop.unknown": 40.0,
    }
    await store.close()
