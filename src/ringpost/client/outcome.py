"""From an answer to what the caller gets: the same reply or error from a call, a ticket and an Outcome."""

from typing import Any

from ringpost.contract.errors import InvalidRequest, OperationFailed, TransportError
from ringpost.contract.operation import Operation
from ringpost.contract.vocabulary import Reply
from ringpost.core.message import Answer
from ringpost.wire.headers import retry_after_s
from ringpost.wire.http import Response
from ringpost.wire.problem import PROCESSED, error_of

_NO_HEADERS: dict[str, str] = {}


def reply_of(operation: Operation[Any, Reply], answer: Answer, message_id: str = "") -> Reply:
    """Give the reply, or raise what the answer says."""
    if not 200 <= answer.status < 300:
        raise _named(error_of(answer.status, answer.body, _headers_of(answer), operation), message_id)
    return decoded(operation, answer.body, message_id)


def reply_from(operation: Operation[Any, Reply], response: Response) -> Reply:
    """Give the reply that came over HTTP, or raise what the response says."""
    if response.status == 200 or response.status == 204:
        return decoded(operation, response.body, "")
    error = error_of(response.status, response.body, dict(response.headers), operation)
    if isinstance(error, TransportError):
        error.operation = operation.full_name
    raise error


def decoded(operation: Operation[Any, Reply], body: bytes, message_id: str) -> Reply:
    """Decode a reply. One that doesn't fit the contract is the receiver's fault, not a wrong request of ours."""
    try:
        return operation.reply.decode(body)
    except InvalidRequest as error:
        raise OperationFailed(
            f"The reply of {operation.full_name} doesn't fit its contract ({error}). Are both sides of one version?",
            message_id=message_id,
            cause="undecodable",
        ) from error


def answer_from(response: Response) -> Answer:
    """Keep of a response what an answer is."""
    headers = dict(response.headers)
    return Answer(
        response.status,
        response.body,
        response.content_type,
        retry_after_s(headers.get("retry-after")),
        headers.get(PROCESSED) != "no",
    )


def _headers_of(answer: Answer) -> dict[str, str]:
    if answer.retry_after_s is None and answer.processed:
        return _NO_HEADERS
    headers: dict[str, str] = {}
    if answer.retry_after_s is not None:
        headers["retry-after"] = f"{answer.retry_after_s:g}"
    if not answer.processed:
        headers[PROCESSED] = "no"
    return headers


def _named(error: Exception, message_id: str) -> Exception:
    if isinstance(error, OperationFailed) and not error.message_id:
        error.message_id = message_id
    return error
