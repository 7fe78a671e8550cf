"""How the tables of a store change while code of several versions works on it: expand, migrate, contract. Pure.

A step is one transaction: after a crash the store is as before it or as after it. One that only adds (a table, an
index, a column with a default) leaves the code of before working on it: expand. What fills the new places is a step of
the same kind. One that takes away or changes a meaning says with `needs` which code may still open the store: contract.
It belongs into a later version than the one whose code has stopped using what goes, as processes that have the store
open aren't asked again.
"""

from collections.abc import Sequence

from msgspec import Struct

from ringpost.contract.errors import StoreError


class Step(Struct, frozen=True):
    """One change of the tables. `needs`: how many steps a program must know to open the store from here on; None: as
    before."""

    sql: str
    needs: int | None = None


def missing(version: int, needs: int, steps: Sequence[Step]) -> range:
    """Give which steps a store of a version lacks: none where it has more than is known here, and bears it.

    Raises StoreError where it needs newer code.
    """
    if needs > len(steps):
        raise StoreError(
            f"the store has schema {version} and needs code that knows {needs}, this Ringpost knows {len(steps)};"
            " install a newer Ringpost"
        )
    return range(version, len(steps))


def needs_after(step: Step, number: int, before: int) -> int:
    """Give what the store needs after a step, which was the number-th, counted from 0."""
    if step.needs is None:
        return max(before, 1)
    if step.needs > number + 1:
        raise ValueError(f"step {number} can't need {step.needs} steps: only {number + 1} are there")
    return max(before, step.needs)
