"""Contract: the class in which a service's operations and events stand, and the register of those that are known."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

from ringpost.contract.errors import UsageError
from ringpost.contract.forms import shown
from ringpost.contract.names import RESERVED_CONTRACTS, checked_name, snake_case
from ringpost.contract.operation import Declared, Event, Operation, is_bound, stated_name
from ringpost.contract.problem import PROBLEM_URN, Problem


class Contract:
    """Inherit to declare what a service offers: `class Accounts(Contract): register = Operation(NewUser, User)`.

    Its name on the wire is `name=`, else the class name in snake_case. It has no attribute of its own: every name is
    free for operations and events. Raises UsageError for what can't work, where the class is written.
    """

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        super().__init_subclass__()
        if cls.__bases__ != (Contract,):
            raise UsageError(f"{cls.__name__} must inherit from Contract alone: an operation belongs to one contract.")
        entry = _Entry(_contract_name(cls, name))
        _refuse_forgotten_values(cls)
        for attribute, value in list(vars(cls).items()):
            if isinstance(value, Operation | Event):
                entry.add(cls, attribute, cast(Any, value))
            elif value in (Operation, Event):
                raise UsageError(
                    f"{cls.__name__}.{attribute} is the class {value.__name__}: write {value.__name__}(…)."
                )
        cls.__ringpost_entry__ = entry
        _BY_NAME[entry.name] = cls

    __ringpost_entry__: "_Entry"

    if not TYPE_CHECKING:

        def __new__(cls, *arguments: object, **more: object) -> "Contract":
            raise UsageError(
                f"A contract is used as a class and never instantiated: write {cls.__name__}, without parentheses,"
                f" as in client.call({cls.__name__}.{_some_operation(cls)}, …)."
            )


class _Entry:
    """What a contract declares, by the names of the wire."""

    __slots__ = ("events", "name", "operations", "problems")

    def __init__(self, name: str) -> None:
        self.name = name
        self.operations: dict[str, Operation[Any, Any]] = {}
        self.events: dict[str, Event[Any]] = {}
        self.problems: dict[str, type[Problem]] = {}

    def add(self, contract: type[Contract], attribute: str, declared: Declared) -> None:
        place = f"{contract.__name__}.{attribute}"
        if is_bound(declared):
            raise UsageError(f"{place} is {declared.full_name} already: an operation or event has one place and name.")
        name = checked_name(stated_name(declared) or attribute, place)
        if name in self.operations or name in self.events:
            raise UsageError(
                f"{place} is named {name!r}, and so is another of {contract.__name__}. Names are its wire."
            )
        if isinstance(declared, Operation):
            self._add_problems(place, declared)
            self.operations[name] = declared
        else:
            self.events[name] = declared
        declared.belongs_to(self.name, name)

    def _add_problems(self, place: str, operation: Operation[Any, Any]) -> None:
        for problem in operation.raises:
            known = self.problems.setdefault(problem.code, problem)
            if known is not problem:
                raise UsageError(
                    f"{place} raises {problem.__qualname__}, whose code {problem.code!r} is {known.__qualname__}'s in"
                    " this contract: the caller couldn't tell them apart. Give one of them another code=."
                )


# By name, so that what travels (a queue's name, a problem's type) leads back to what was declared. The latest of a name
# counts: a reloaded module declares its contracts again.
_BY_NAME: "WeakValueDictionary[str, type[Contract]]" = WeakValueDictionary()


def name_of(contract: type[Contract]) -> str:
    """Give the contract's name on the wire."""
    return _entry(contract).name


def operations_of(contract: type[Contract]) -> Mapping[str, Operation[Any, Any]]:
    """Give the contract's operations by name, in the order in which they are written."""
    return _entry(contract).operations


def events_of(contract: type[Contract]) -> Mapping[str, Event[Any]]:
    """Give the contract's events by name, in the order in which they are written."""
    return _entry(contract).events


def find_contract(name: str) -> type[Contract] | None:
    """Give the contract of a name, if this process has one."""
    return _BY_NAME.get(name)


def find_operation(full_name: str) -> Operation[Any, Any] | None:
    """Give the operation of a full name (`accounts.register`), if this process has it."""
    contract, _, name = full_name.partition(".")
    found = _BY_NAME.get(contract)
    return None if found is None else _entry(found).operations.get(name)


def find_event(full_name: str) -> Event[Any] | None:
    """Give the event of a full name (`accounts.registered`), if this process has it."""
    contract, _, name = full_name.partition(".")
    found = _BY_NAME.get(contract)
    return None if found is None else _entry(found).events.get(name)


def find_problem(urn: str) -> type[Problem] | None:
    """Give the declared Problem of a `type` (`urn:ringpost:problem:accounts.email_taken`), if this process has it."""
    contract, _, code = urn.removeprefix(PROBLEM_URN).partition(".")
    found = _BY_NAME.get(contract) if urn.startswith(PROBLEM_URN) else None
    return None if found is None else _entry(found).problems.get(code)


def _entry(contract: type[Contract]) -> _Entry:
    entry = getattr(contract, "__ringpost_entry__", None)
    if isinstance(entry, _Entry):
        return entry
    given = contract.__name__ if isinstance(contract, type) else f"a {type(contract).__name__}"
    raise UsageError(f"A contract is a class that inherits from Contract, and {given} isn't one.")


def _contract_name(cls: type[Contract], name: str | None) -> str:
    checked = checked_name(snake_case(cls.__name__) if name is None else name, f"The contract {cls.__name__}")
    if checked in RESERVED_CONTRACTS:
        raise UsageError(
            f"A contract can't be named {checked!r}: the door has that path for itself. Say"
            f" class {cls.__name__}(Contract, name=…)."
        )
    return checked


def _refuse_forgotten_values(cls: type[Contract]) -> None:
    """Refuse `register: Operation[NewUser, User]` without a value, which would declare nothing."""
    for attribute, form in inspect.get_annotations(cls).items():
        text = form if isinstance(form, str) else shown(form)
        if attribute not in vars(cls) and text.startswith(("Operation[", "Event[")):
            raise UsageError(
                f"{cls.__name__}.{attribute} has a type and no value: write {attribute} = {text} as a call."
            )


def _some_operation(cls: type[Contract]) -> str:
    entry = getattr(cls, "__ringpost_entry__", None)
    return next(iter(entry.operations), "operation") if isinstance(entry, _Entry) else "operation"
