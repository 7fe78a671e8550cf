"""The store as the command line opens it: one that is there already, in a file that other processes may be using."""

import difflib
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from getpass import getuser
from socket import gethostname

from ringpost.contract.errors import StoreError, UsageError
from ringpost.core import notes
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.port import Store


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[Store, None]:
    """Open the store of the settings, which must be there. Raises StoreError saying what to do."""
    if settings.store is None:
        raise StoreError(
            "no store is configured: run this where ringpost.toml is, or name one with --store sqlite:///ringpost.db."
        )
    if settings.store.startswith("memory:"):
        raise StoreError(
            "the store memory: lives inside the process that runs; only a store in a file can be looked into."
        )
    store = store_for(settings.store, settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def described(store: Store, name: str) -> notes.Described | None:
    """Read what a service has noted about an operation or event; None where nobody ever served it."""
    note = notes.operation(name)
    for found in await store.notes(note):
        if found.name == note:
            return notes.decode_described(found.value)
    return None


async def instances(store: Store) -> dict[str, notes.Instance]:
    """Give the processes that are alive, by instance: those of one command are one."""
    found = await store.notes(notes.INSTANCE)
    return {note.name.removeprefix(notes.INSTANCE): notes.decode_instance(note.value) for note in found}


def process_of(instance: notes.Instance) -> str:
    """Say which process an instance is."""
    others = f", {instance.processes} processes" if instance.processes > 1 else ""
    return f"pid {instance.pid} on {instance.host}{others}"


async def unknown(store: Store, name: str, kind: str) -> UsageError:
    """Say that a name is not known to a store, with what it may have been meant to be."""
    known: list[str] = []
    for note in await store.notes(notes.OPERATION):
        if notes.decode_described(note.value).kind == kind:
            known.append(note.name.removeprefix(notes.OPERATION))
    return UsageError(f"no service has ever noted an {kind} {name} in {store.facts.url}. {did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Give a hint at the names that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"Did you mean {near[0]}?"
    if not names:
        return "Start its service once with `ringpost run MODULE:SERVICE`."
    return f"There are {', '.join(names[:8])}{' …' if len(names) > 8 else ''}."


def operator() -> str:
    """Name who does this, for the audit of the store."""
    try:
        return f"{getuser()}@{gethostname()}"
    except (OSError, KeyError):
        return gethostname()
