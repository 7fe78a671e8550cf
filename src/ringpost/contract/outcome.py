"""Outcome and DeadLetter: what `reply_to`, `call_each` and `on_failure` deliver."""

from functools import lru_cache
from types import NoneType
from typing import Any, Generic, Literal, cast, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ringpost.contract.contract import find_problem
from ringpost.contract.errors import InvalidRequest, OperationFailed, RingpostError, UsageError
from ringpost.contract.forms import members, shown
from ringpost.contract.names import snake_case
from ringpost.contract.operation import Operation
from ringpost.contract.problem import PROBLEM_URN, Problem, from_members, to_members
from ringpost.contract.vocabulary import Reply, Request

End = Literal["succeeded", "failed", "cancelled", "expired"]


class Outcome(Struct, Generic[Request, Reply], dict=True):
    """Take how a request ended, with the request in it: `Operation(Outcome[NewUser, User])` is the type for reply_to.

    `result()` gives the reply or raises what the call would have raised; `error` is that exception, for match, or None.
    `state` is one of succeeded, failed, cancelled, expired; `message_id` is empty for a call.
    """

    operation: str  # full name: contract.operation
    message_id: str
    request: Request
    generation: int = 1
    state: End = "succeeded"
    _reply: Reply | UnsetType = msgspec.field(name="reply", default=UNSET)
    _problem: dict[str, Any] | UnsetType = msgspec.field(name="problem", default=UNSET)

    @classmethod
    def of_reply(
        cls, operation: Operation[Request, Reply], message_id: str, request: Request, reply: Reply
    ) -> "Outcome[Request, Reply]":
        """Make the outcome of a request that was answered."""
        return Outcome(operation.full_name, message_id, request, _reply=reply)

    @classmethod
    def of_error(
        cls, operation: Operation[Request, Reply], message_id: str, request: Request, error: RingpostError
    ) -> "Outcome[Request, Reply]":
        """Make the outcome of a request that wasn't; `error` comes back as it is, and as a problem where it travels."""
        state: End = error.state if isinstance(error, OperationFailed) else "failed"
        outcome = Outcome[Request, Reply](operation.full_name, message_id, request, state=state)
        outcome._problem = _members(error, operation.contract_name)
        vars(outcome)["_error"] = error
        return outcome

    @property
    def error(self) -> RingpostError | None:
        """What the call would have raised: a Problem, OperationFailed, a TransportError. None: it went well."""
        if self.state == "succeeded":
            return None
        kept = vars(self).get("_error")
        if kept is None:
            kept = vars(self)["_error"] = self._read_error()
        return cast(RingpostError, kept)

    def result(self) -> Reply:
        """Give the reply, or raise what the call would have raised."""
        error = self.error
        if error is not None:
            raise error
        return cast(Reply, None if self._reply is UNSET else self._reply)

    def _read_error(self) -> RingpostError:
        members: dict[str, Any] = {} if isinstance(self._problem, UnsetType) else self._problem
        declared = find_problem(str(members.get("type", "")))
        if declared is not None:
            try:
                return from_members(declared, members)
            except InvalidRequest:
                pass  # The sender's contract is another version; then it is told as what it is here, a failure.
        cause = str(members.get("code") or self.state)
        said = members.get("detail") or members.get("title") or f"It ended as {self.state} ({cause})."
        state = "failed" if self.state == "succeeded" else self.state
        return OperationFailed(f"{self.operation}: {said}", message_id=self.message_id, cause=cause, state=state)


@lru_cache(maxsize=1024)
def check_taker(taker: Operation[Any, Any], operation: Operation[Any, Any]) -> None:
    """Raise UsageError where an operation could read none of the outcomes of another, or only those that failed."""
    taken = [get_args(form) for form in members(taker.request.type) if (get_origin(form) or form) is Outcome]
    without_reply = [bool(args) and args[1:] in ((), (None,), (NoneType,)) for args in taken]
    if not taken or (not operation.reply.empty and all(without_reply)):
        raise UsageError(
            f"{taker.full_name} can't take the outcome of {operation.full_name}: its request is "
            f"{shown(taker.request.type)}. Declare it as "
            f"Operation(Outcome[{shown(operation.request.type)}, {shown(operation.reply.type)}])."
        )


def _members(error: RingpostError, contract_name: str) -> dict[str, Any]:
    if isinstance(error, Problem):
        return to_members(error, contract_name)
    cause = error.cause if isinstance(error, OperationFailed) else snake_case(type(error).__name__)
    return {"type": PROBLEM_URN + cause, "code": cause, "detail": str(error)}


class DeadLetter(Struct):
    """Take what was given up: `@service.on_failure`. `cause`: `handler_error`, `worker_lost`, `rejected`, `expired` …

    `errors`: of the last attempts at most five, one text each; `attempts` as charged.
    """

    operation: str  # full name: contract.operation
    message_id: str
    cause: str
    attempts: int
    errors: list[str]
