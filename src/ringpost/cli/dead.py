"""`ringpost dead`: what could not be handled, why, and what to do with it."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Final, Literal

import click
import msgspec

from ringpost.cli.asked import LENGTH, body_of, json_option, request_argument, settings_of, store_option
from ringpost.cli.editing import edited
from ringpost.cli.letter import Letter, letter_of, operation_of, told
from ringpost.cli.output import age, console, instant, plain, print_json, print_table
from ringpost.cli.plan import Plan, found, steps
from ringpost.cli.rehearsal import rehearse
from ringpost.cli.stores import described, did_you_mean, opened, operator, unknown
from ringpost.client.store_tickets import StoreTickets
from ringpost.contract.errors import StateError, StoreError, UsageError
from ringpost.core import ids
from ringpost.core.life import ticket_state
from ringpost.core.message import Cause, Record, State
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Changed, Drop, Replay, Store

_DEFAULT_SHOWN: Final = 50
_ERROR_LENGTH: Final = 60
_WIDE_ENOUGH: Final = 110

What = Literal["replay", "drop"]
_DONE: Final = {"replay": "replayed", "drop": "dropped"}


@click.group()
def dead() -> None:
    """List, show, replay and drop dead letters."""


@dead.command("list")
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
                await _refuse_unknown_queue(opened_store, queue)
            total = sum(depth.dead for depth in await opened_store.depths() if queue in (None, depth.queue))
            _print(records, total, queue, as_json=as_json)
        return 0

    return asyncio.run(work())


@dead.command()
@click.argument("id", metavar="ID")
@store_option
@json_option
def show(id: str, store: str | None, as_json: bool) -> int:
    """Show everything that is known of the dead letter ID: cause, errors, request, sender.

    Secrets of the request are masked where its service is known.

    \b
    Example:
      ringpost dead show 01a205a1-ee60-74a2-a575-523908deee40
    """

    async def work() -> Letter:
        async with opened(settings_of(store)) as opened_store:
            return await letter_of(opened_store, await _dead_one(opened_store, _parsed(id), bodies=True))

    letter = asyncio.run(work())
    if as_json:
        print_json(letter)
    else:
        click.echo(plain(told(letter)))
    return 0


@dead.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--queue", metavar="QUEUE", help="With --all: of this queue alone.")
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@click.option("--cause", type=click.Choice([cause.word for cause in Cause]), help="With --all: of this cause alone.")
@click.option("--error", metavar="TEXT", help="With --all: whose last error says this.")
@click.option("--within", type=LENGTH, help="With --all: that died within this time, as 2h.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second.")
@click.option("--canary", type=click.IntRange(1), help="One first, then so many, the rest once those ended well.")
@click.option("--dry-run", is_flag=True, help="With --all: only say which fit what their service reads now.")
@click.option("--wait", type=LENGTH, default="60s", show_default=True, help="How long a canary may take.")
@store_option
@json_option
def replay(
    ids: tuple[str, ...],
    queue: str | None,
    every: bool,
    cause: str | None,
    error: str | None,
    within: float | None,
    limit: int | None,
    rate: float | None,
    canary: int | None,
    dry_run: bool,
    wait: float,
    store: str | None,
    as_json: bool,
) -> int:
    """Have dead letters handled again: by ID, or all of a queue. They keep their ids; attempts begin anew.

    They go the oldest first, so those of one ordering key keep their order. If it is stopped, the same command goes on
    with what is still dead.

    \b
    Examples:
      ringpost dead replay 01a205a1-ee60-74a2-a575-523908deee40
      ringpost dead replay --queue mail.welcome --all --canary 10 --rate 50
      ringpost dead replay --all --cause handler_error --error "connection refused" --within 2h
    """
    _check_asked(ids, queue, every, "replay")
    if ids and (cause or error or within or canary or dry_run):
        raise UsageError("--cause, --error, --within, --canary and --dry-run are for --all; ids are chosen already.")
    plan = Plan(
        queue=queue,
        cause=cause,
        error=error,
        died_after_ms=None if within is None else wall_ms() - round(within * 1000),
        limit=limit,
        rate=rate,
        canary=canary or 0,
        canary_wait_s=wait,
    )
    if dry_run:
        return asyncio.run(_rehearse(plan, store, as_json=as_json))
    return asyncio.run(_order("replay", ids, plan, store, as_json=as_json))


@dead.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--queue", metavar="QUEUE", help="With --all: of this queue alone.")
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@store_option
@json_option
def drop(ids: tuple[str, ...], queue: str | None, every: bool, yes: bool, store: str | None, as_json: bool) -> int:
    """Remove dead letters for good: by ID, or all of a queue. The store notes who did it.

    \b
    Examples:
      ringpost dead drop 01a205a1-ee60-74a2-a575-523908deee40
      ringpost dead drop --queue mail.welcome --all --yes
    """
    _check_asked(ids, queue, every, "drop")
    if every and not yes and not _confirmed(queue):
        return 1
    return asyncio.run(_order("drop", ids, Plan(queue=queue), store, as_json=as_json))


@dead.command()
@click.argument("id", metavar="ID")
@request_argument
@click.option("--drop", "drops", is_flag=True, help="Remove the dead letter once the new message is durable.")
@store_option
def edit(id: str, request: str | None, drops: bool, store: str | None) -> int:
    """Send the request of the dead letter ID again with changes, as a new message that names it as its cause.

    The JSON is a merge patch (RFC 7396): what it names is changed, null removes a field, the rest stays, secrets
    unseen. The outcome is checked against what the service has noted. The dead letter stays, unless --drop; the same
    edit twice is one message. Prints the new id.

    \b
    Example:
      ringpost dead edit 01a205a1-ee60-74a2-a575-523908deee40 '{"email": "ada@example.com"}' --drop
    """
    patch = body_of(request)
    if not patch:
        raise UsageError('say what to change, as a JSON object: \'{"email": "ada@example.com"}\'.')
    settings = settings_of(store)

    async def work() -> None:
        async with opened(settings) as opened_store:
            record = await _dead_one(opened_store, _parsed(id), bodies=True)
            name = operation_of(record)
            noted = await described(opened_store, name)
            if noted is None:
                raise await unknown(opened_store, name, "operation")
            message = edited(record, noted, patch, settings)
            (put,) = await opened_store.put([message])
            if put.refused:
                raise StoreError(f"the store didn't take it ({put.refused}); the dead letter is as it was.")
            click.echo(ids.text(put.id))
            if put.duplicate:
                click.echo("this edit was made before; nothing was sent again", err=True)
            if drops:
                await opened_store.change([Drop(record.id, operator())])

    asyncio.run(work())
    return 0


def _check_asked(ids: Sequence[str], queue: str | None, every: bool, what: What) -> None:
    if ids and (every or queue is not None):
        raise UsageError("give ids, or --all with or without --queue; not both.")
    if not ids and not every:
        which = (
            f"ringpost dead {what} --queue {queue} --all" if queue else f"ringpost dead {what} ID, or --queue Q --all"
        )
        raise UsageError(f"say which: {which}.")


def _confirmed(queue: str | None) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("dropping them all can't be undone: add --yes.")
    return click.confirm(f"Drop every dead letter{f' of {queue}' if queue else ''} for good?", err=True)


async def _order(what: What, wanted: Sequence[str], plan: Plan, store_url: str | None, *, as_json: bool) -> int:
    async with opened(settings_of(store_url)) as store:
        done: list[str] = []
        missed: list[str] = []
        if wanted:
            parsed = [_parsed(id) for id in wanted]
            records = [await _dead_one(store, id) for id in parsed]  # all are looked at before any is changed
            await _carry_out(store, what, records, "by id", done, missed)
        else:
            if plan.queue is not None:
                await _refuse_unknown_queue(store, plan.queue)
            await _follow(store, what, plan, done, missed)
    if as_json:
        print_json({_DONE[what]: done, "missed": missed})
    else:
        click.echo(f"{_DONE[what]} {len(done):,} dead letter{'' if len(done) == 1 else 's'}")
        for text in missed:
            click.echo(f"ringpost: {plain(text)}", err=True)
    return 1 if missed else 0


async def _rehearse(plan: Plan, store_url: str | None, *, as_json: bool) -> int:
    settings = settings_of(store_url)
    async with opened(settings) as store:
        if plan.queue is not None:
            await _refuse_unknown_queue(store, plan.queue)
        result = await rehearse(store, plan, settings)
    if as_json:
        print_json(result)
    else:
        for queue, count in result.queues.items():
            click.echo(plain(f"{queue}: {count:,}"))
        unknown_ones = f", {result.unknown:,} of which nobody noted what they must be" if result.unknown else ""
        click.echo(f"{result.fit:,} fit, {result.unfit:,} don't{unknown_ones}; nothing was replayed")
        for example in result.examples:
            click.echo(plain(f"  {example}"))
    return 1 if result.unfit else 0


async def _follow(store: Store, what: What, plan: Plan, done: list[str], missed: list[str]) -> None:
    """Go through a plan step by step, and no further than to a canary that doesn't end well."""
    step = 0
    async for batch in steps(store, plan):
        await _carry_out(store, what, batch, plan.words(), done, missed)
        if plan.waits(step):
            bad = await _not_well(store, batch, plan.canary_wait_s)
            if bad:
                missed.append(f"the rest was left as it is: {bad}.")
                return
        elif plan.rate is not None and len(batch) == plan.size(step):
            await asyncio.sleep(len(batch) / plan.rate)
        step += 1
        if sys.stderr.isatty():
            click.echo(f"\r{_DONE[what]} {len(done):,}", nl=False, err=True)
    if step and sys.stderr.isatty():
        click.echo(err=True)


async def _not_well(store: Store, batch: Sequence[Record], wait_s: float) -> str:
    """Wait for what was replayed; say which didn't end well, or not in time. Empty: all did."""
    tickets = StoreTickets(store)
    until_s = asyncio.get_running_loop().time() + wait_s
    for record in batch:
        id = ids.text(record.id)
        answer = await tickets.answer(id, until_s)
        (now,) = await store.read([record.id])
        state = "gone" if now is None else now.state.name.lower()
        if answer is None:
            return f"{id} is still {state} after {wait_s:g} s; is its service running, is it tried again"
        if state != "succeeded":
            return f"{id} is {state}{' again' if state == 'dead' else ''}"
    return ""


async def _carry_out(
    store: Store, what: What, records: Sequence[Record], why: str, done: list[str], missed: list[str]
) -> None:
    if not records:
        return
    who = operator()
    orders = [
        Replay(record.id, record.generation, who, why) if what == "replay" else Drop(record.id, who)
        for record in records
    ]
    for record, changed in zip(records, await store.change(orders), strict=True):
        if changed.result == "done":
            done.append(ids.text(record.id))
        else:
            missed.append(f"{ids.text(record.id)} was not {_DONE[what]}: {_why(changed)}.")


def _why(changed: Changed) -> str:
    if changed.result == "conflict":
        return "somebody else has replayed it meanwhile"
    if changed.state is not None:
        return f"it is {changed.state.name.lower()} now"
    return "it is gone"


def _parsed(text: str) -> bytes:
    try:
        return ids.parse(text)
    except ValueError:
        raise UsageError(f"{text[:80]!r} is no message id; `ringpost dead list` shows them.") from None


async def _dead_one(store: Store, id: bytes, *, bodies: bool = False) -> Record:
    (record,) = await store.read([id], bodies=bodies)
    if record is None:
        raise StateError(f"There is no message {ids.text(id)} in this store; `ringpost dead list` shows the dead ones.")
    if record.state is not State.DEAD:
        raise StateError(
            f"{ids.text(id)} is no dead letter: it is {ticket_state(record)}. See `ringpost ticket {ids.text(id)}`."
        )
    return record


async def _refuse_unknown_queue(store: Store, queue: str) -> None:
    known = [depth.queue for depth in await store.depths()]
    if queue not in known:
        raise UsageError(f"there is no queue {queue} here. {did_you_mean(queue, known) if known else ''}".rstrip())


def _print(records: Sequence[Record], total: int, queue: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json([_summary(record) for record in records])
        return
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
