"""`ringpost dead list`: which messages are dead, the oldest first."""

import asyncio
from collections.abc import Sequence
from typing import Final

import click
import msgspec

from ringpost.cli.asked import json_option, settings_of, store_option
from ringpost.cli.dead.choosing import check_queue
from ringpost.cli.dead.plan import Plan, found
from ringpost.cli.output import age, console, instant, print_json, print_table
from ringpost.cli.stores import opened
from ringpost.core import ids
from ringpost.core.message import Record
from ringpost.store.hostclock import wall_ms

_DEFAULT_SHOWN: Final = 50
_ERROR_LENGTH: Final = 60
_WIDE_ENOUGH: Final = 110


@click.command("list")
@click.option("--queue", metavar="QUEUE", help="Of this queue alone.")
@click.option("--limit", type=click.IntRange(1), default=_DEFAULT_SHOWN, show_default=True, help="At most so many.")
@store_option
@json_option
def list_dead(queue: str | None, limit: int, store: str | None, as_json: bool) -> int:
    """Show dead letters, the oldest first.

    \b
    Examples:
      ringpost dead list
      ringpost dead list --queue mail.welcome --json
    """

    async def work() -> int:
        async with opened(settings_of(store)) as opened_store:
            records = [record async for record in found(opened_store, Plan(queue=queue, limit=limit))]
            if not records and queue is not None:
                await check_queue(opened_store, queue)
            total = sum(depth.dead for depth in await opened_store.depths() if queue in (None, depth.queue))
            if as_json:
                print_json([_summary(record) for record in records])
            else:
                _print(records, total, queue)
        return 0

    return asyncio.run(work())


def _print(records: Sequence[Record], total: int, queue: str | None) -> None:
    now_ms = wall_ms()
    wide = console().width >= _WIDE_ENOUGH  # else there is no room for what `dead show` has whole
    cells = [
        (
            ids.text(record.id),
            record.queue,
            record.cause.word,
            *([record.attempts] if wide else []),
            f"{age((now_ms - (record.settled_ms or record.created_ms)) / 1000)} ago",
            *([_last_error(record)] if wide else []),
        )
        for record in records
    ]
    of = f" of {queue}" if queue else ""
    columns = ["id", "queue", "cause", *(["attempts#", "died#", "last error"] if wide else ["died#"])]
    print_table("", columns, cells, empty=f"No dead letters{of}.")
    if total > len(records):
        click.echo(f"{total - len(records):,} more: --limit {total}", err=True)


def _summary(record: Record) -> dict[str, object]:
    return {
        "id": ids.text(record.id),
        "queue": record.queue,
        "cause": record.cause.word,
        "attempts": record.attempts,
        "losses": record.losses,
        "generation": record.generation,
        "created": instant(record.created_ms),
        "died": instant(record.settled_ms),
        "error": msgspec.to_builtins(record.failures[-1]) if record.failures else None,
    }


def _last_error(record: Record) -> str:
    if not record.failures:
        return ""
    last = record.failures[-1]
    text = " ".join(f"{last.type}: {last.message}".split())
    return text if len(text) <= _ERROR_LENGTH else f"{text[:_ERROR_LENGTH]}…"
