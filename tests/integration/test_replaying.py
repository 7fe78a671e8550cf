"""Replaying dead letters by a plan, while a worker handles what comes: a canary first, chosen ones alone, in order."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ringpost.cli.dead import orders
from ringpost.cli.main import ringpost
from ringpost.cli.stores import operator
from ringpost.client.posting import new_id
from ringpost.core.message import Cause, Delivery, Failure, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import Filter, Store
from ringpost.store.sqlite.store import SqliteStore

QUEUE = "shop.order"
Ends = Callable[[Delivery], State]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ringpost.toml").write_text('store = "sqlite:///shop.db"\n')
    return tmp_path / "shop.db"


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(ringpost, arguments)


def killed(path: Path, errors: list[str]) -> None:
    """Have one message die of each error, in this order."""

    async def work() -> None:
        async with store_at(path) as store:
            await store.put([Message(new_id(), QUEUE, b"%d" % number) for number in range(len(errors))])
            claimed = await store.claim({QUEUE: len(errors)}, 1, 30.0)
            await store.settle(
                [
                    settled(delivery, State.DEAD, error)
                    for delivery, error in zip(claimed.deliveries, errors, strict=True)
                ]
            )

    asyncio.run(work())


def settled(delivery: Delivery, to: State, error: str = "again") -> Settlement:
    if to is not State.DEAD:
        return Settlement(delivery, to)
    return Settlement(delivery, to, cause=Cause.HANDLER_ERROR, failure=Failure("ValueError", error, "", 1, 1, "h"))


class store_at:
    """Open the store for as long as a block."""

    def __init__(self, path: Path) -> None:
        self._store = SqliteStore(path, Settings())

    async def __aenter__(self) -> Store:
        await self._store.open(create=True)
        return self._store

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()


@contextmanager
def worked(path: Path, ends: Ends) -> Iterator[list[bytes]]:
    """Handle what comes, one after the other, in a thread; gives what was handled."""
    handled: list[bytes] = []
    over = threading.Event()

    async def work() -> None:
        async with store_at(path) as store:
            while not over.is_set():
                claimed = await store.claim({QUEUE: 1}, 2, 30.0)
                for delivery in claimed.deliveries:
                    handled.append(delivery.body)
                    await store.settle([settled(delivery, ends(delivery))])
                if not claimed.deliveries:
                    await store.wait(frozenset({QUEUE}), frozenset(), 0.1)

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    try:
        yield handled
    finally:
        over.set()
        thread.join(60)


def still_dead(path: Path) -> list[bytes]:
    async def read() -> list[bytes]:
        async with store_at(path) as store:
            return [record.body for record in await store.find(Filter(queue=QUEUE, states=(State.DEAD,)))]

    return asyncio.run(read())


def test_the_rest_follows_a_canary_that_ends_well_in_order(path: Path) -> None:
    killed(path, ["x"] * 8)
    with worked(path, lambda _: State.SUCCEEDED) as handled:
        result = ran("dead", "replay", "--queue", QUEUE, "--all", "--canary", "2")
    assert (result.exit_code, result.stdout) == (0, "replayed 8 dead letters\n"), result.output
    assert handled[:3] == [b"0", b"1", b"2"], "the canary is handled whole before the rest is there"
    assert handled == sorted(handled)
    assert still_dead(path) == []


def test_nothing_follows_a_canary_that_dies_again(path: Path) -> None:
    killed(path, ["x"] * 8)
    with worked(path, lambda delivery: State.DEAD if delivery.body == b"2" else State.SUCCEEDED) as handled:
        result = ran("dead", "replay", "--queue", QUEUE, "--all", "--canary", "2")
    assert result.exit_code == 1
    assert "replayed 3 dead letters" in result.stdout
    assert "the rest was left as it is" in result.stderr
    assert "is dead again" in result.stderr
    assert handled == [b"0", b"1", b"2"]
    assert still_dead(path) == [b"%d" % number for number in range(2, 8)]


def test_a_canary_that_nobody_waits_for_is_found_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hasty(*_: object) -> str:
        return ""

    monkeypatch.setattr(orders, "not_well", hasty)
    killed(path, ["x"] * 8)
    with worked(path, lambda _: State.DEAD):
        assert "replayed 8" in ran("dead", "replay", "--queue", QUEUE, "--all", "--canary", "2").stdout


def test_a_canary_that_nobody_handles_ends_the_plan_and_the_same_command_goes_on(path: Path) -> None:
    killed(path, ["x"] * 3)
    result = ran("dead", "replay", "--queue", QUEUE, "--all", "--canary", "1", "--wait", "50ms")
    assert result.exit_code == 1
    assert "is still ready after 0.05 s; is its service running" in result.stderr
    assert still_dead(path) == [b"1", b"2"]
    with worked(path, lambda _: State.SUCCEEDED):
        assert "replayed 2" in ran("dead", "replay", "--queue", QUEUE, "--all", "--canary", "1").stdout
    assert still_dead(path) == []


def test_only_those_that_are_meant_are_replayed(path: Path) -> None:
    killed(path, ["connection refused", "no such item", "Connection refused"])
    assert "replayed 0" in ran("dead", "replay", "--all", "--cause", "rejected").stdout
    assert "replayed 2" in ran("dead", "replay", "--all", "--error", "connection refused", "--within", "1h").stdout
    assert still_dead(path) == [b"1"]
    found = json.loads(ran("dead", "replay", "--all", "--error", "item", "--json").stdout)
    assert len(found["replayed"]) == 1
    refused = ran("dead", "replay", "some-id", "--canary", "1")
    assert refused.exit_code == 2
    assert "ids are chosen already" in refused.stderr


def test_a_letter_tells_who_replayed_it_and_by_which_plan(path: Path) -> None:
    killed(path, ["x"])
    with worked(path, lambda _: State.DEAD):
        ran("dead", "replay", "--queue", QUEUE, "--all", "--canary", "3", "--error", "x")
    (found,) = json.loads(ran("dead", "list", "--json").stdout)
    (done,) = json.loads(ran("dead", "show", found["id"], "--json").stdout)["history"]
    assert (done["what"], done["who"]) == ("replay", operator())
    assert done["detail"] == f"generation 2: all, queue {QUEUE}, error x, canary 3"
    assert f"replay by {operator()}: generation 2: all" in ran("dead", "show", found["id"]).stdout
