"""`ringpost ticket`: how a message is, its result, waiting for it, cancelling it."""

import asyncio
from typing import Final, cast

import click

from ringpost.cli.asked import LENGTH, json_option, settings_of, store_option
from ringpost.cli.output import plain, print_json
from ringpost.cli.places import Monitor, Place, place_of
from ringpost.cli.reach import Reach
from ringpost.cli.said import say
from ringpost.cli.stores import operator
from ringpost.cli.watching import SUCCEEDED, described, follow
from ringpost.client.ticket import FINAL
from ringpost.contract.errors import UsageError

_LOOK_S: Final = 0.0
_TELLS: Final = {
    "cancelled": "cancelled; nobody had begun it",
    "requested": "it is running: its handler was asked to stop",
    "too_late": "too late: it has ended already",
}


@click.command()
@click.argument("id", metavar="ID")
@click.option("--wait", type=LENGTH, help="Wait so long for its end: 60, 5m.")
@click.option("--watch", is_flag=True, help="Show its progress until it ends, then its answer.")
@click.option("--result", is_flag=True, help="Print its answer alone, as `call` would have.")
@click.option("--cancel", is_flag=True, help="Ask that it isn't done.")
@store_option
@json_option
def ticket(
    id: str, wait: float | None, watch: bool, result: bool, cancel: bool, store: str | None, as_json: bool
) -> int:
    """Show how the message ID is: at once, or when it has ended.

    It is looked up in the store, else at every door that is known. The exit code is 1 where it failed.

    \b
    Examples:
      ringpost ticket 01a205a1-ee60-74a2-a575-523908deee40
      ringpost ticket 01a205a1-ee60-74a2-a575-523908deee40 --wait 5m --result
    """
    if cancel and (watch or result or wait is not None):
        raise UsageError("--cancel goes alone: look at it afterwards.")
    if watch and (result or wait is not None):
        raise UsageError("--watch waits until the end and prints the answer: leave --wait and --result out.")

    async def work() -> int:
        async with Reach(settings_of(store), strict=store is not None) as reach:
            place = await place_of(reach, id)
            if cancel:
                return await _cancel(place, as_json=as_json)
            if watch:
                name = str((await place.monitor()).get("operation", "it"))
                return await follow(place, name, id, as_json=as_json)
            return await _show(place, wait, result=result, as_json=as_json)

    return asyncio.run(work())


async def _cancel(place: Place, *, as_json: bool) -> int:
    answered = await place.cancel(operator())
    if as_json:
        print_json({"result": answered})
    else:
        click.echo(_TELLS[answered])
    return 1 if answered == "too_late" else 0


async def _show(place: Place, wait_s: float | None, *, result: bool, as_json: bool) -> int:
    answer = await place.answer(wait_s or _LOOK_S) if result or wait_s is not None else None
    monitor = await place.monitor()
    if result and answer is not None:
        return say(str(monitor.get("operation", "it")), answer, as_json=as_json)
    if as_json:
        print_json(monitor)
    else:
        click.echo(plain(_told(monitor)))
    return 0 if monitor["state"] == SUCCEEDED or monitor["state"] not in FINAL else 1


def _told(monitor: Monitor) -> str:
    """Say in a few lines how a message is."""
    share = monitor.get("percentComplete")
    state = str(monitor["state"]) + (f", {share:g} %" if share is not None else "")
    more = described(monitor)
    lines = [
        ("operation", monitor.get("operation", "")),
        ("state", f"{state} ({more})" if more else state),
        ("generation", monitor.get("generation", 1) if monitor.get("generation", 1) != 1 else ""),
        ("sent", monitor.get("createdDateTime", "")),
        ("last change", monitor.get("lastActionDateTime", "")),
        ("expires", monitor.get("expirationDateTime", "")),
    ]
    error = cast("dict[str, object] | None", monitor.get("error"))
    if error is not None:
        lines.append(("error", f"{error.get('message', '')} ({error.get('code', '')})"))
    return "\n".join(f"{name:12} {value}" for name, value in lines if value)
