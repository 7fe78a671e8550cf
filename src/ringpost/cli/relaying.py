"""`ringpost relay`: a process that does nothing else than bring what stands in an outbox table to the store."""

import asyncio
import logging
import signal

import click

from ringpost.cli.asked import outbox_option, store_option
from ringpost.cli.stores import opened
from ringpost.contract.errors import UsageError
from ringpost.relay.relaying import Relaying
from ringpost.settings import Given, Settings, load


@click.command()
@outbox_option
@store_option
def relay(outbox: str | None, store: str | None) -> None:
    """Bring messages from the outbox table of a business database to the store, until SIGTERM or Ctrl-C.

    `ringpost run` does it as well, where `outbox` is set. Several at once are safe: one of them works.

    \b
    Example:
      ringpost relay --outbox sqlite:///shop.db --store sqlite:///ringpost.db
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    given: Given = {}
    if outbox is not None:
        given["outbox"] = outbox
    if store is not None:
        given["store"] = store
    settings = load(given)
    if settings.outbox is None:
        raise UsageError("no outbox is configured: name one with --outbox sqlite:///shop.db, or set `outbox`.")
    asyncio.run(_relay(settings))


async def _relay(settings: Settings) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    relaying = Relaying(settings)
    async with opened(settings) as store:
        relaying.start(store)
        try:
            click.echo(f"ringpost: relaying from {relaying.shown} to {store.facts.url}", err=True)
            await over.wait()
        finally:
            await relaying.stop()
