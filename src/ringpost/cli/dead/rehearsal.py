"""What replays would do: how many they take, which requests wouldn't be read, and what handlers would make of them.

Without the services' code only the first two can be told, by what they have noted. With it, those handlers run that are
declared with `dry_run=True`, and nothing of it takes effect (`service/rehearsal.py`).
"""

import sys
from collections import Counter
from collections.abc import AsyncIterable

import click
from msgspec import Struct

from ringpost.cli.dead.foretold import Foreteller, Foretold, lines, words
from ringpost.cli.dead.letter import operation_of
from ringpost.cli.output import plain, print_json
from ringpost.cli.posting import checked
from ringpost.cli.stores import described
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.core import ids
from ringpost.core.message import Cause, Record
from ringpost.core.notes import Described
from ringpost.service.handler import Handler
from ringpost.service.rehearsal import Rehearsal
from ringpost.settings import Settings
from ringpost.store.port import Store

EXAMPLES_MAX = 10
LETTERS_MAX = 1000
"""So many rehearsed letters are shown one by one; of the others it is only counted how they end."""


class Findings(Struct):
    """`fit` would be read. `unknown`: nobody noted what they must look like. `examples`: of those that don't fit.

    `rehearsed` counts by what would become of them, `letters` are the first of them. `only_read`: queues whose letters
    were read and no more, and why.
    """

    queues: dict[str, int]
    fit: int = 0
    unfit: int = 0
    unknown: int = 0
    examples: list[str] = []
    rehearsed: dict[str, int] = {}
    letters: list[Foretold] = []
    only_read: dict[str, str] = {}

    def tell(self, *, as_json: bool) -> int:
        """Print what was found, but for the letters that were shown before, and give the exit code."""
        if as_json:
            print_json(self)
        else:
            self._print()
        well = self.rehearsed.get("succeeds", 0) == sum(self.rehearsed.values())
        return 0 if well and not self.unfit else 1

    def _print(self) -> None:
        for queue, count in self.queues.items():
            only_read = f", only read: {self.only_read[queue]}" if queue in self.only_read else ""
            click.echo(plain(f"{queue}: {count:,}{only_read}"))
        if self.rehearsed:
            ends = ", ".join(f"{count:,} {words(foretold)}" for foretold, count in self.rehearsed.items())
            click.echo(f"{sum(self.rehearsed.values()):,} rehearsed: {ends}")
        unknown = f", {self.unknown:,} of which nobody noted what they must be" if self.unknown else ""
        click.echo(f"{self.fit:,} fit, {self.unfit:,} don't{unknown}; nothing was replayed")
        for example in self.examples:
            click.echo(plain(f"  {example}"))


class Rehearsing:
    """Go through dead letters, with the code of their services where it is given."""

    def __init__(self, store: Store, settings: Settings, rehearsal: Rehearsal | None, *, aloud: bool) -> None:
        """`aloud`: letters are shown as they are rehearsed, else there is only a count, on a terminal."""
        self._store = store
        self._settings = settings
        self._rehearsal = rehearsal
        self._foreteller = None if rehearsal is None else Foreteller(rehearsal, store)
        self._aloud = aloud
        self._noted: dict[str, Described | None] = {}
        self._ends: Counter[str] = Counter()
        self._found = Findings({})

    async def findings(self, records: AsyncIterable[Record]) -> Findings:
        """Look at each letter, in this order; they were read with bodies."""
        queues: Counter[str] = Counter()
        async for record in records:
            queues[record.queue] += 1
            await self._look_at(record)
        if self._ends and not self._aloud and sys.stderr.isatty():
            click.echo(err=True)
        self._found.queues = dict(sorted(queues.items()))
        self._found.rehearsed = dict(self._ends)
        return self._found

    async def _look_at(self, record: Record) -> None:
        handler = None if self._rehearsal is None else self._rehearsal.handlers.get(record.queue)
        why = await self._unfit(record, handler)
        self._count(record, why)
        if self._foreteller is None:
            return
        if handler is None:
            self._found.only_read[record.queue] = "none of these services handles it"
        elif not handler.dry_run:
            self._found.only_read[record.queue] = "its handler doesn't say dry_run=True"
        elif not why:
            self._add(await self._foreteller.foretold(record))

    def _count(self, record: Record, why: str | None) -> None:
        found = self._found
        if why is None:
            found.unknown += 1
            return
        found.fit += not why
        found.unfit += bool(why)
        if why and len(found.examples) < EXAMPLES_MAX:
            found.examples.append(f"{ids.text(record.id)}: {why}")

    def _add(self, foretold: Foretold) -> None:
        self._ends[foretold.foretold] += 1
        shown = self._ends.total()
        if shown <= LETTERS_MAX:
            self._found.letters.append(foretold)
            if self._aloud:
                click.echo(lines(foretold))
        if (not self._aloud or shown > LETTERS_MAX) and sys.stderr.isatty():
            click.echo(f"\rrehearsed {shown:,}", nl=False, err=True)

    async def _unfit(self, record: Record, handler: Handler | None) -> str | None:
        """Say why a request can't be read, empty where it can; None where nobody knows."""
        if record.cause is Cause.CHECKSUM:
            return "what is stored is damaged"
        if handler is not None:
            return _unreadable(record, handler)
        name = operation_of(record)
        if name not in self._noted:
            self._noted[name] = await described(self._store, name)
        noted = self._noted[name]
        return None if noted is None else _unfit(record, noted, name, self._settings)


def _unreadable(record: Record, handler: Handler) -> str:
    """Read a request with the code that would."""
    try:
        handler.request.decode(record.body)
    except InvalidRequest as error:
        return _told(error, secrets=bool(handler.request.secrets))
    return ""


def _unfit(record: Record, noted: Described, name: str, settings: Settings) -> str:
    """Hold a request against the schema that its service has noted."""
    try:
        checked(record.body, noted, name, settings)
    except InvalidRequest as error:
        return _told(error, secrets=bool(noted.secrets))
    except (UsageError, ValueError):
        return "it is no JSON"
    return ""


def _told(error: InvalidRequest, *, secrets: bool) -> str:
    at = f"at {error.pointer}: " if error.pointer else ""
    return at + ("it doesn't fit" if secrets else error.detail)  # errors quote values
