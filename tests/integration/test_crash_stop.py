"""SIGSTOP past the lease of a worker whose handler writes: what it commits afterwards is refused by the fence.

The worker stops itself at a point of its transaction. It renews no lease and, woken, gives nothing up by itself: but
for the fence it would write what another one writes too. It is told to end only after its commit was refused.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ledger import Books, Entry, How, entries
from scene import Running, Scene, a_client, a_scene

from ringpost import Client

LEASE_S = 1.0
# From its first write on a transaction on SQLite has the turn: nobody can take anything over, see the last test.
POINTS: list[tuple[str, How, str]] = [
    ("sqlite", "execute", "before the handler's write"),
    ("sqlite", "defer", "before the worker's turn"),
    ("postgres", "execute", "before the handler's write"),
    ("postgres", "execute", "after the handler's write"),  # the transaction is open
    ("postgres", "execute", "before the handler's commit"),
    ("postgres", "defer", "before the worker's turn"),
]
TWINS = [POINTS[0], POINTS[1], POINTS[4], POINTS[5]]


@pytest.fixture
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    url = None
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    async with a_scene(tmp_path, LEASE_S, url) as scene:
        scene.script = Path(__file__).with_name("ledger.py")
        yield scene


async def stopped(scene: Scene, client: Client, how: How, point: str, twin: str = "") -> tuple[Running, str]:
    """Let a worker stop at a point of what it does for the number 1; gives it, and the id of its message."""
    worker = await scene.start("careless", environ={"POINT": point, "POINT_HOW": "stop", "TWIN": twin})
    ticket = await client.send(Books.write, Entry(1, how))
    await scene.diary.until(point=point, pid=worker.pid)
    await worker.stopped()
    return worker, ticket.id


async def woken_when_another_works_on_it(
    scene: Scene, how: How, point: str, twin: str = ""
) -> tuple[bool, list[int], tuple[int, int]]:
    """Stop a worker until its message is handled by another one, and wake it before that one has ended.

    Gives whether its settlement was done, who wrote what stands in the books in the end, and both processes.
    """
    diary = scene.diary
    async with a_client(store=scene.url) as client:
        late, id = await stopped(scene, client, how, point, twin)
        other = await scene.start("books", environ={"PATIENT": "1"})
        await diary.until(began=1, id=id, pid=other.pid)
        late.signal(signal.SIGCONT)
        refused = not (await diary.until(settled=id, pid=late.pid))["done"]
        assert diary.all(effect=1, pid=late.pid), "it gave up before its commit: that shows nothing of the fence"
        scene.tell("go")
        await diary.until(settled=id, pid=other.pid)
        for worker in (late, other):
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 0
    return refused, [pid for _, _, pid in await entries(scene.url)], (late.pid, other.pid)


@pytest.mark.parametrize(("scene", "how", "point"), POINTS, indirect=["scene"])
async def test_who_was_stopped_past_its_lease_is_refused_by_the_fence(scene: Scene, how: How, point: str) -> None:
    refused, wrote, (_, other) = await woken_when_another_works_on_it(scene, how, point)
    assert refused
    assert wrote == [other]


@pytest.mark.parametrize(("scene", "how", "point"), TWINS, indirect=["scene"])
async def test_without_a_check_of_the_fence_the_late_one_would_win(scene: Scene, how: How, point: str) -> None:
    refused, wrote, (late, _) = await woken_when_another_works_on_it(scene, how, point, "unfenced")
    assert not refused
    assert late in wrote


@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
@pytest.mark.parametrize("point", ["after the handler's write", "before COMMIT"])
async def test_who_is_stopped_with_the_turn_of_a_file_keeps_it_and_writes_once(scene: Scene, point: str) -> None:
    async with a_client(store=scene.url) as client:
        late, id = await stopped(scene, client, "execute", point)
        other = asyncio.ensure_future(client.send(Books.write, Entry(2)))
        await asyncio.sleep(1.5 * LEASE_S)  # nothing tells that a lease has ended
        assert not other.done()
        late.signal(signal.SIGCONT)
        ticket = await other
        for one in (client.ticket(Books.write, id), ticket):
            await one.result(30)
    assert [number for number, _, _ in await entries(scene.url)] == [1, 2]
