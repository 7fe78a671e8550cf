"""`ringpost explain`: where a call and a message go from here, which figures hold for them, and who said so."""

import asyncio
from collections.abc import Sequence

import click
from msgspec import Struct
from rich.text import Text

from ringpost.cli import protection, route, terms
from ringpost.cli.asked import checked_name, json_option, settings_of, store_option
from ringpost.cli.facts import Known, known
from ringpost.cli.output import console, plain, print_json, table
from ringpost.cli.route import Place
from ringpost.cli.running import here_on_path, load_service
from ringpost.cli.terms import Term
from ringpost.contract.errors import UsageError


class Way(Struct, frozen=True):
    """One way to reach it: where it goes (empty: nowhere), what was looked at, what holds."""

    verb: str
    goes_to: tuple[str, ...]
    looked_at: list[Place]
    terms: list[Term]


class Explanation(Struct, frozen=True):
    """What is printed, and with `--json` as it is."""

    name: str
    kind: str
    service: str  # that implements it; empty: not known here
    doc: str
    declared_by: str  # empty: nobody here knows it, it only has an address
    ways: list[Way]


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[MODULE:SERVICE...] NAME")
@store_option
@json_option
def explain(words: tuple[str, ...], store: str | None, as_json: bool) -> int:
    """Say where a call and a message to NAME go from here, and which timeouts, limits and rules hold for them.

    For each figure it says who set it. What a service has noted in the store is enough; with the code of services it
    looks as a process that runs them would.

    \b
    Examples:
      ringpost explain accounts.register
      ringpost explain accounts:accounts accounts.register --json
    """
    targets, name = words[:-1], words[-1]
    if ":" in name:
        raise UsageError(
            f"{name!r} is no operation: give its name last, as in ringpost explain {name} accounts.register."
        )
    checked_name(name, "operation")
    here_on_path()
    services = [load_service(target) for target in targets]
    settings = settings_of(store)
    found = asyncio.run(known(name, services, settings, strict=store is not None))
    explanation = explained(found)
    if as_json:
        print_json(explanation)
    else:
        _print(explanation)
    return 0


def explained(found: Known) -> Explanation:
    """Make of what is known what is said."""
    if found.is_event:
        ways = [_way("publish", route.of_publish(found), terms.of_publish(found))]
    else:
        ways = [
            _way("call", route.of_call(found), [*terms.of_call(found), *protection.of_call(found)]),
            _way("send", route.of_send(found), terms.of_send(found)),
        ]
    declared = found.declared
    return Explanation(
        found.name,
        "operation" if declared is None else declared.kind,
        "" if declared is None else declared.service,
        "" if declared is None else declared.doc,
        "" if declared is None else found.declared_by,
        ways,
    )


def _way(verb: str, places: list[Place], holding: list[Term]) -> Way:
    return Way(verb, route.goes_to(places), places, holding)


def _print(explanation: Explanation) -> None:
    by = f", as {explanation.declared_by} says" if explanation.declared_by else ", known by its address only"
    of = f" of the service {explanation.service}" if explanation.service else ""
    click.echo(plain(f"{explanation.name} is an {explanation.kind}{of}{by}."))
    if explanation.doc:
        click.echo(plain(explanation.doc))
    for way in explanation.ways:
        to = (" and " if way.verb == "publish" else " or ").join(way.goes_to) or "nobody"
        console().print()
        console().print(Text(f"{way.verb} → {plain(to)}", style="bold" if way.goes_to else "bold red"))
        console().print(_indented([_place(place) for place in way.looked_at]))
        console().print(_indented([(one.term, one.value, one.why) for one in way.terms]))


def _place(place: Place) -> tuple[object, ...]:
    return (place.where, Text("yes", style="green") if place.found else Text("no", style="yellow"), place.said)


def _indented(rows: Sequence[Sequence[object]]) -> object:
    made = table("", ["", "", ""], [(f"  {row[0]}", *row[1:]) for row in rows])
    made.show_header = False
    return made
