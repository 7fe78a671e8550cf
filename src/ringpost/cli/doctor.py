"""`ringpost doctor`: what may keep services from working here, each with what to do about it."""

import asyncio
from typing import Final

import click
from rich.text import Text

from ringpost.cli import surroundings
from ringpost.cli.asked import json_option, store_option
from ringpost.cli.output import console, print_json
from ringpost.cli.queues import read_rows
from ringpost.cli.reach import Reach, configured
from ringpost.cli.relays import outboxes
from ringpost.cli.stores import instances, process_of
from ringpost.cli.subscriptions import read_subscriptions
from ringpost.cli.surroundings import Finding, fail, ok, warn
from ringpost.client.target import Target, target_of
from ringpost.contract.errors import RingpostError, TransportError, UsageError
from ringpost.core.notes import Instance
from ringpost.settings import Settings, load
from ringpost.store.hostclock import boot_id
from ringpost.store.port import Store
from ringpost.wire.http import Response

_ASK_S: Final = 3.0
_MARKS: Final = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


@click.command()
@store_option
@json_option
def doctor(store: str | None, as_json: bool) -> int:
    """Check what services need here: configuration, versions, store, live instances, outbox tables, queues.

    Each line is ok, warn or fail, and says what to do. The exit code is 1 where something fails.

    \b
    Example:
      ringpost doctor
    """
    findings = [surroundings.python(), surroundings.libraries()]
    settings, found = _configuration(store)
    findings.append(found)
    if settings is not None:
        findings += asyncio.run(_look(settings))
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def _configuration(store: str | None) -> tuple[Settings | None, Finding]:
    try:
        settings = load({} if store is None else {"store": store})
    except UsageError as error:
        return None, fail("configuration", str(error), "mend it; everything else waits for that")
    return settings, surroundings.configuration(settings, named=store is not None)


async def _look(settings: Settings) -> list[Finding]:
    async with Reach(settings) as reach:
        findings = surroundings.disk(settings)
        store = await reach.store()
        if store is None:
            findings.append(surroundings.no_store(settings, reach.no_store))
        else:
            facts = store.facts
            findings.append(ok("store", f"opens; level {facts.level}, id {facts.store_id}, {facts.url}"))
            findings += surroundings.log(settings)
            findings += await surroundings.database(store)
        findings += await _doors(reach, store)
        findings += await outboxes(settings, store)
        if store is not None:
            findings += await _work(store)
        return findings


async def _doors(reach: Reach, store: Store | None) -> list[Finding]:
    findings: list[Finding] = []
    for contract, url in reach.settings.addresses.items():
        findings.append(await _address(reach, contract, target_of(url)))
    if store is None:
        for target in configured(reach.settings):
            findings.append(await _address(reach, "http", target))
        return findings
    alive = await instances(store)
    if not alive:
        findings.append(warn("instances", "none is alive", "start one with `ringpost run MODULE:SERVICE`"))
    for id, instance in alive.items():
        findings.append(await _instance(reach, id, instance))
    return findings


async def _instance(reach: Reach, id: str, instance: Instance) -> Finding:
    who = f"{', '.join(_services(instance)) or id} ({process_of(instance)})"
    if not instance.url:
        return ok("instance", f"{who} works without a door")
    if instance.boot_id != boot_id() and "//127." in instance.url:
        return warn("instance", f"{who} listens on its own loopback", "set `advertise` there to a URL others reach")
    said = await _ready(reach, target_of(instance.url, id))
    if said is None:
        return ok("instance", f"{who} is ready at {instance.url}")
    return warn("instance", f"{who} at {instance.url}: {said}", "look at its log; a note of the dead ends by itself")


async def _address(reach: Reach, what: str, target: Target) -> Finding:
    said = await _ready(reach, target)
    url = target.origin.url + target.prefix
    if said is None:
        return ok("address", f"{what}: {url} is ready")
    return warn("address", f"{what}: {url}: {said}", "start its service, or mend `addresses` and `http`")


async def _ready(reach: Reach, target: Target) -> str | None:
    """Ask a door whether it is ready; None where it is, else what is wrong."""
    try:
        response: Response = await reach.transport().request(
            target.origin,
            "GET",
            f"{target.prefix}/readyz",
            deadline_s=asyncio.get_running_loop().time() + _ASK_S,
        )
    except TransportError as error:
        return str(error).rstrip(".")
    if response.status == 200:
        return None
    return f"not ready: {response.body[:200].decode('utf-8', 'replace')}"


async def _work(store: Store) -> list[Finding]:
    try:
        rows, subscribed = await read_rows(store), await read_subscriptions(store)
    except RingpostError as error:
        return [fail("queues", str(error), "restore the store from a backup if this stays")]
    findings: list[Finding] = []
    for row in rows:
        if row.lacks_consumer:
            waiting = row.ready + row.scheduled + row.waiting
            findings.append(
                warn("queue", f"{row.queue}: {waiting:,} wait and nobody takes them", "start the service that does")
            )
        if row.paused:
            findings.append(warn("queue", f"{row.queue} is paused {row.paused}", "resume it when that is over"))
    dead = {row.queue: row.dead for row in rows if row.dead}
    if dead:
        told = ", ".join(f"{queue} {count:,}" for queue, count in dead.items())
        findings.append(warn("dead letters", told, "see `ringpost dead list`"))
    for subscription in subscribed:
        name = f"{subscription.queue} to {subscription.event}"
        if subscription.state == "suspended":
            findings.append(
                warn("subscription", f"{name} is suspended and missed {subscription.missed:,}", _OF_SUBSCRIPTION)
            )
        elif subscription.state == "unseen":
            findings.append(warn("subscription", f"{name} was not seen for a day", _OF_SUBSCRIPTION))
    return findings or [ok("queues", f"{len(rows):,}, none stuck; no dead letters")]


_OF_SUBSCRIPTION: Final = "start its service, or `ringpost subscriptions remove`"


def _services(instance: Instance) -> list[str]:
    return sorted({name.partition(".")[0] for name in (*instance.operations, *instance.queues)})


def _print(findings: list[Finding]) -> None:
    out = console()
    for finding in findings:
        mark, style = _MARKS[finding.level]
        line = Text.assemble((mark, style), "  ", (f"{finding.what:14}", "bold"), finding.said)
        out.print(line, soft_wrap=True)
        if finding.to_do:
            out.print(f"      {'':14}→ {finding.to_do}", soft_wrap=True)
