"""A store whose file is deleted or replaced under it: no receipt is given for what nobody will find."""

import asyncio
import os
from pathlib import Path

import pytest

from ringpost import Contract, Operation, Service
from ringpost.contract.errors import StoreError
from ringpost.core.message import Message
from ringpost.http.site import Site
from ringpost.settings import Settings
from ringpost.store.sqlite.store import SqliteStore


class Gone(Contract):
    note = Operation(int)


def message(number: int) -> Message:
    return Message(number.to_bytes(16, "big"), "a.b", b"{}")


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    os.replace(copy, path)


@pytest.mark.parametrize("do", [delete, replace])
async def test_no_receipt_is_given_for_a_file_that_is_gone(tmp_path: Path, do: object) -> None:
    assert callable(do)
    failures: list[BaseException] = []
    store = SqliteStore(tmp_path / "a.db", on_failed=failures.append)
    await store.open(create=True)
    await store.put([message(1)])
    do(tmp_path / "a.db")
    with pytest.raises(StoreError, match="was deleted or replaced while it was open"):
        await store.put([message(2)])
    with pytest.raises(StoreError, match="has failed"):
        await store.put([message(3)])
    assert len(failures) == 1
    await store.close()


async def test_a_process_whose_store_has_failed_is_not_ready_and_ends(tmp_path: Path) -> None:
    given_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    service = Service(Gone)

    @service.implements(Gone.note)
    async def note(number: int) -> None: ...

    settings = Settings(store=f"sqlite:///{tmp_path}/a.db")
    site = Site([service], settings, give_up=lambda reason: given_up.done() or given_up.set_result(reason))
    await site.open(None, work=False)
    try:
        assert site.host.health().ready
        (tmp_path / "a.db").unlink()
        with pytest.raises(StoreError):
            await site.client().send(Gone.note, 1)
        assert "the store has failed" in await asyncio.wait_for(given_up, 10)
        assert not site.host.health().ready
    finally:
        await site.close(0.0)
