"""`ringpost call`: one call to whoever serves the operation, with JSON in and JSON out."""

import asyncio

import click

from ringpost.cli.asked import LENGTH, body_of, checked_name, json_option, request_argument, settings_of, store_option
from ringpost.cli.reach import Headers, Reach
from ringpost.cli.said import say
from ringpost.client.options import checked_key
from ringpost.client.outcome import answer_from
from ringpost.core.message import Answer
from ringpost.settings import Settings
from ringpost.wire.headers import length_text, quoted

_TRANSIT_S = 0.5  # beyond the deadline, so that the door's own answer to it is heard


@click.command()
@click.argument("name", metavar="NAME")
@request_argument
@click.option(
    "--timeout", type=LENGTH, help="How long the answer may take, as 500ms or 10s (default: the operation's, else 5s)."
)
@click.option("--key", help="Idempotency key: the same key gives the same answer.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="What is shed last.")
@store_option
@json_option
def call(
    name: str,
    request: str | None,
    timeout: float | None,
    key: str | None,
    priority: str | None,
    store: str | None,
    as_json: bool,
) -> int:
    """Call the operation NAME with a REQUEST and print its answer.

    It goes to the address of its contract in `addresses`, to a live instance noted in the store, or to the `http`
    address of the configuration.

    \b
    Examples:
      ringpost call accounts.register '{"email": "ada@example.com", "name": "Ada"}'
      ringpost call accounts.register @new_user.json --timeout 2s
    """
    settings = settings_of(store)
    contract, operation = checked_name(name, "operation")
    body = body_of(request)
    headers: Headers = ()
    if key is not None:
        headers += (("idempotency-key", quoted(checked_key(key, "--key"))),)
    if priority is not None:
        headers += (("ringpost-priority", priority),)
    timeout_s = settings.call_timeout_max_s  # without one of ours the operation's counts, which the door knows
    if timeout is not None:
        timeout_s = min(timeout, timeout_s)
        headers += (("request-timeout", length_text(timeout_s)),)
    asked = _Asked(name, f"/{contract}/{operation}", headers, body, timeout_s)
    return say(name, asyncio.run(_call(settings, asked, strict=store is not None)), as_json=as_json)


class _Asked:
    """A call as it goes out."""

    def __init__(self, name: str, path: str, headers: Headers, body: bytes, timeout_s: float) -> None:
        self.name = name
        self.path = path
        self.headers: Headers = (("content-type", "application/json"), *headers)
        self.body = body
        self.timeout_s = timeout_s


async def _call(settings: Settings, asked: _Asked, *, strict: bool) -> Answer:
    async with Reach(settings, strict=strict) as reach:
        response, _ = await reach.post(asked.name, asked.path, asked.headers, asked.body, asked.timeout_s + _TRANSIT_S)
        return answer_from(response)
