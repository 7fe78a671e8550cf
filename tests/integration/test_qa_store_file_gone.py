"""A store whose file is deleted or replaced under it: no receipt is given for what nobody will find."""

import os
from pathlib import Path

import pytest

from ringpost.contract.errors import StoreError
from ringpost.core.message import Message
from ringpost.store.sqlite import SqliteStore


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
