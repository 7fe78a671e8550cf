"""Power cuts, replayed from what a disk was asked to do: only what was synced is sure to be there.

What a file was given since its last sync comes in pieces of 512 bytes, of which any may have reached the disk, in any
order, across all files. Names (a file made or removed) survive in their order; a sync of a new log syncs its folder
too, as SQLite's own VFS does. Not modelled: a disk that lies about a sync, and one that spoils sectors it was not
writing.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from disk import Create, Delete, Sync, Truncate, Write

SECTOR_BYTES = 512
CREATED_SYNCED = ("-wal", "-journal")  # their first sync is one of the folder as well


class Contents:
    """One file's bytes: what is sure, and what was asked for since."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.pending: list[Write | Truncate] = []
        self.synced = False

    def sync(self) -> None:
        for op in self.pending:
            _apply(self.durable, op)
        self.pending.clear()
        self.synced = True

    def after_the_cut(self, chance: random.Random, survival: float) -> bytearray:
        image = bytearray(self.durable)
        for op in self.pending:
            if isinstance(op, Truncate):
                if chance.random() < survival:
                    _apply(image, op)
                continue
            for piece in _sectors(op):
                if chance.random() < survival:
                    _apply(image, piece)
        return image


class Machine:
    """The disk of a machine whose power may go at any moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._names: dict[str, Contents] = {}  # as they will be once all is written
        self._sure: dict[str, Contents] = {}  # as they are for sure
        self._renaming: list[tuple[str, Contents | None]] = []  # what has been done to names since

    def did(self, op: Any) -> None:
        """Take note of one operation."""
        match op:
            case Create(path):
                self._rename(path, Contents())
            case Delete(path):
                self._rename(path, None)
            case Write(path, _, _) | Truncate(path, _):
                self._names[path].pending.append(op)
            case Sync(path):
                contents = self._names[path]
                if not contents.synced and path.endswith(CREATED_SYNCED):
                    self._sure = dict(self._names)
                    self._renaming.clear()
                contents.sync()
            case _:
                pass  # not for the disk

    def _rename(self, path: str, contents: Contents | None) -> None:
        if contents is None:
            self._names.pop(path, None)
        else:
            self._names[path] = contents
        self._renaming.append((path, contents))

    def copy(self, target: Path) -> None:
        """Write everything into an empty folder, as it is without a cut."""
        for path, contents in self._names.items():
            contents.sync()
            (target / Path(path).relative_to(self._folder)).write_bytes(contents.durable)

    def cut(self, chance: random.Random, target: Path) -> None:
        """Write what is there after a cut into an empty folder."""
        names = dict(self._sure)
        for path, contents in self._renaming[: chance.randint(0, len(self._renaming))]:
            if contents is None:
                names.pop(path, None)
            else:
                names[path] = contents
        survival = chance.choice((0.0, 0.5, 1.0, chance.random()))
        for path, contents in names.items():
            (target / Path(path).relative_to(self._folder)).write_bytes(contents.after_the_cut(chance, survival))


def cuts(trace: Sequence[Any], folder: Path, number: int, seed: int) -> Iterator[tuple[int, Machine]]:
    """Give a machine at so many random moments of a trace, with how much of the trace it has done."""
    chance = random.Random(seed)
    moments = sorted(chance.randint(1, len(trace)) for _ in range(number))
    machine, done = Machine(folder), 0
    for moment in moments:
        for op in trace[done:moment]:
            machine.did(op)
        done = moment
        yield moment, machine


def _sectors(op: Write) -> Iterator[Write]:
    at, end = op.at, op.at + len(op.data)
    while at < end:
        stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Write(op.path, at, op.data[at - op.at : stop - op.at])
        at = stop


def _apply(image: bytearray, op: Write | Truncate) -> None:
    if isinstance(op, Truncate):
        del image[op.size :]
        image.extend(bytes(op.size - len(image)))
        return
    if len(image) < op.at:
        image.extend(bytes(op.at - len(image)))
    image[op.at : op.at + len(op.data)] = op.data
