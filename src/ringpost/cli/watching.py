"""Follow a message until it ends: a progress bar in a terminal, a line for each change elsewhere."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ringpost.cli.output import json_of, plain
from ringpost.cli.places import ASK_S, Monitor, Place
from ringpost.cli.said import code_of, say

SUCCEEDED: Final = "succeeded"
_PLAIN: Final = {"accepted": "waiting", "running": "running"}


async def follow(place: Place, name: str, id: str, *, as_json: bool) -> int:
    """Show how a message gets on until it ends, then its answer; give the exit code.

    With `as_json` every change is a line of JSON, and the last line has the answer.
    """
    try:
        if as_json:
            async for monitor in place.monitors():
                click.echo(msgspec.json.encode(monitor))
        elif sys.stderr.isatty():
            await _bar(place.monitors(), name)
        else:
            await _lines(place.monitors())
    except asyncio.CancelledError:
        click.echo(f"it goes on; look again with: ringpost ticket {id} --watch", err=True)
        raise
    answer = await place.answer(ASK_S)
    if not as_json:
        return say(name, answer, as_json=False)
    click.echo(msgspec.json.encode({"id": id, "status": answer.status, "answer": json_of(answer.body)}))
    return code_of(answer)


async def _bar(monitors: AsyncIterator[Monitor], name: str) -> None:
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.fields[name]} {task.fields[state]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        task = progress.add_task("", name=name, state="waiting", total=None)
        async for monitor in monitors:
            share = monitor.get("percentComplete")
            done = monitor["state"] == SUCCEEDED
            progress.update(
                task,
                total=100 if done or share is not None else None,
                completed=100 if done else share or 0,
                description=described(monitor),
                state=_PLAIN.get(monitor["state"], monitor["state"]),
            )


async def _lines(monitors: AsyncIterator[Monitor]) -> None:
    shown = ""
    async for monitor in monitors:
        share = monitor.get("percentComplete")
        text = " ".join(
            part
            for part in (
                _PLAIN.get(monitor["state"], str(monitor["state"])),
                "" if share is None else f"{share:g} %",
                described(monitor),
            )
            if part
        )
        if text != shown:
            shown = text
            click.echo(text, err=True)


def described(monitor: Monitor) -> str:
    """Say what a monitor tells beside state and share: the handler's note, the attempt, that it was asked to stop."""
    parts = [plain(str(monitor["note"]))] if monitor.get("note") else []
    attempt = monitor.get("attempt", 0)
    if isinstance(attempt, int) and attempt > 1:
        parts.append(f"attempt {attempt}")
    if monitor.get("cancelRequested"):
        parts.append("cancelling was asked for")
    return ", ".join(parts)
