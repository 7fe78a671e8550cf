"""What a plan of replays would do: how many it takes, and which requests the present services wouldn't even read."""

from collections import Counter

import click
from msgspec import Struct

from ringpost.cli.dead.letter import operation_of
from ringpost.cli.dead.plan import Plan, found
from ringpost.cli.output import plain, print_json
from ringpost.cli.posting import checked
from ringpost.cli.stores import described
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.core import ids
from ringpost.core.message import Cause, Record
from ringpost.core.notes import Described
from ringpost.settings import Settings
from ringpost.store.port import Store

EXAMPLES_MAX = 10


class Rehearsal(Struct):
    """`fit` would be read. `unknown`: nobody noted what they must look like. `examples`: of those that don't fit."""

    queues: dict[str, int]
    fit: int = 0
    unfit: int = 0
    unknown: int = 0
    examples: list[str] = []

    def tell(self, *, as_json: bool) -> int:
        """Print what was found, and give the exit code."""
        if as_json:
            print_json(self)
        else:
            for queue, count in self.queues.items():
                click.echo(plain(f"{queue}: {count:,}"))
            unknown = f", {self.unknown:,} of which nobody noted what they must be" if self.unknown else ""
            click.echo(f"{self.fit:,} fit, {self.unfit:,} don't{unknown}; nothing was replayed")
            for example in self.examples:
                click.echo(plain(f"  {example}"))
        return 1 if self.unfit else 0


async def rehearse(store: Store, plan: Plan, settings: Settings) -> Rehearsal:
    """Hold each dead letter of a plan against the schema that its service has noted. No handler runs."""
    noted: dict[str, Described | None] = {}
    queues: Counter[str] = Counter()
    result = Rehearsal({})
    async for record in found(store, plan, bodies=True):
        queues[record.queue] += 1
        name = operation_of(record)
        if name not in noted:
            noted[name] = await described(store, name)
        schema = noted[name]
        if schema is None:
            result.unknown += 1
            continue
        why = _unfit(record, schema, name, settings)
        result.fit += not why
        result.unfit += bool(why)
        if why and len(result.examples) < EXAMPLES_MAX:
            result.examples.append(f"{ids.text(record.id)}: {why}")
    result.queues = dict(sorted(queues.items()))
    return result


def _unfit(record: Record, schema: Described, name: str, settings: Settings) -> str:
    if record.cause is Cause.CHECKSUM:
        return "what is stored is damaged"
    try:
        checked(record.body, schema, name, settings)
    except InvalidRequest as error:
        at = f"at {error.pointer}: " if error.pointer else ""
        return at + ("it doesn't fit" if schema.secrets else error.detail)  # errors quote values
    except (UsageError, ValueError):
        return "it is no JSON"
    return ""
