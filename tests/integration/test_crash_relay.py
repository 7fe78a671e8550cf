"""A relay that is killed at each of its steps: what was committed with a session takes effect once, in its order."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import relay_process
from business import Business
from servers.postgres import RealPostgres

from ringpost.core.message import Message, Settlement, State
from ringpost.relay.relay import Relay
from ringpost.relay.row import row_of
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Store

RUN_S = 60.0
COUNT = 8
QUEUE = "mail.welcome"


class Scene(NamedTuple):
    """A business database, and the store that its messages are brought to."""

    business: Business
    url: str
    store: Store


@pytest.fixture(params=["sqlite to sqlite", "postgresql to sqlite", "sqlite to postgresql", "postgresql to postgresql"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    business_url, _, url = request.param.partition(" to ")
    made = {}
    for place, kind in (("business", business_url), ("store", url)):
        if kind == "sqlite":
            made[place] = f"sqlite:///{tmp_path}/{place}.db"
        else:
            server: RealPostgres = request.getfixturevalue("fast_postgres")
            made[place] = server.url(server.new_database())
    store = store_for(made["store"], Settings(durability="buffered"))
    await store.open(create=True)
    yield Scene(await Business(made["business"]).prepare(), made["store"], store)
    await store.close()


async def relay(scene: Scene, point: str = "", twin: str = "") -> int:
    """Let a relay work in a process of its own; gives how it ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, relay_process.__file__, scene.business.url, scene.url, point, twin
    )
    async with asyncio.timeout(RUN_S):
        return await process.wait()


async def rest(scene: Scene) -> bool:
    """Relay what is left, here."""
    relay = Relay(scene.business.table(scene.url), scene.store)
    while await relay.round():
        pass
    await relay._leave()
    return True


async def send(scene: Scene) -> None:
    """Write messages of one line, as a session would."""
    messages = [Message(number.to_bytes(16, "big"), QUEUE, b'"%d"' % number, line=b"l" * 16) for number in range(COUNT)]
    await scene.business.write([row_of(one, wall_ms()) for one in messages])


async def handle(scene: Scene, effects: list[str]) -> None:
    """Handle all that is in the store: each is an effect."""
    while claimed := (await scene.store.claim({QUEUE: 50}, 1, 30)).deliveries:
        effects += [one.body.decode() for one in claimed]
        await scene.store.settle([Settlement(one, State.SUCCEEDED) for one in claimed])


async def lived(scene: Scene, point: str, twin: str = "") -> list[str]:
    """Kill a relay at a point, handle what is there, and let another one do the rest; gives the effects."""
    await send(scene)
    effects: list[str] = []
    assert await relay(scene, point, twin) == -signal.SIGKILL
    await handle(scene, effects)
    assert await relay(scene, "", twin) == 0 if twin else await rest(scene)
    await handle(scene, effects)
    assert await scene.business.count("ringpost_outbox") == 0
    return effects


@pytest.mark.parametrize("point", relay_process.POINTS)
async def test_each_takes_effect_once_and_in_order(scene: Scene, point: str) -> None:
    assert await lived(scene, point) == [f'"{number}"' for number in range(COUNT)]


@pytest.mark.parametrize("scene", ["sqlite to sqlite"], indirect=True)
async def test_one_that_deletes_before_it_puts_is_found(scene: Scene) -> None:
    assert len(await lived(scene, "before the put", "deletes first")) < COUNT


@pytest.mark.parametrize("scene", ["sqlite to sqlite"], indirect=True)
async def test_one_that_gives_new_ids_is_found(scene: Scene) -> None:
    effects = Counter(await lived(scene, "after the put", "new ids"))
    assert max(effects.values()) == 2
