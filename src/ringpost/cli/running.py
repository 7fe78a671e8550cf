"""`ringpost run`: find the services named on the command line and run them."""

import logging
import sys
from importlib import import_module

import click

from ringpost.cli.asked import outbox_option, store_option
from ringpost.contract.errors import UsageError
from ringpost.http.run import run_loaded
from ringpost.service.service import Service
from ringpost.settings import Given, load


def load_service(target: str) -> Service:
    """Import `module:attribute`; errors say which half is wrong."""
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise UsageError(f"{target!r} names no service; write module:attribute, as in accounts:accounts.")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports isn't: the traceback says what
        raise UsageError(f"there is no module {name!r} here or on the Python path ({target}).") from None
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Service):
        return found
    services = [f"{name}:{key}" for key, value in vars(module).items() if isinstance(value, Service)]
    hint = f"; it has {', '.join(services)}" if services else "; it has no Service at all"
    raise UsageError(f"{target} is {'missing' if found is None else 'not a Service'}{hint}.")


@click.command()
@click.argument("services", nargs=-1, required=True, metavar="MODULE:SERVICE...")
@store_option
@outbox_option
@click.option("--http", metavar="HOST:PORT", help="Where to listen; `none`: workers only (default: 127.0.0.1:8000).")
@click.option("--workers", type=click.IntRange(1, 64), help="How many processes (default: 1).")
@click.option("--reload", is_flag=True, help="Start anew when a Python file here changes.")
@click.option("--accept-loss", is_flag=True, help="Open a store whose newest messages are gone, and say which.")
def run(
    services: tuple[str, ...],
    store: str | None,
    outbox: str | None,
    http: str | None,
    workers: int | None,
    reload: bool,
    accept_loss: bool,
) -> None:
    """Serve SERVICES over HTTP and work their messages, until SIGTERM or Ctrl-C.

    What isn't said here comes from ringpost.toml and RINGPOST_*.

    \b
    Examples:
      ringpost run accounts:accounts mail:mail
      ringpost run accounts:accounts --http 0.0.0.0:8000 --workers 4
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    here_on_path()
    given: Given = {}
    if store is not None:
        given["store"] = store
    if outbox is not None:
        given["outbox"] = outbox
    if http is not None:
        given["http"] = http
    if workers is not None:
        given["workers"] = workers
    settings = load(given)

    def load_services() -> list[Service]:
        return [load_service(target) for target in services]

    if reload:  # each process loads them, as they are then
        run_loaded(load_services, settings, reload=True, accept_loss=accept_loss)
    else:
        loaded = load_services()  # before a port is taken: a wrong name should say nothing else
        run_loaded(lambda: loaded, settings, accept_loss=accept_loss)


def here_on_path() -> None:
    """Let `import accounts` find the current folder, as `python -m` does."""
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")
