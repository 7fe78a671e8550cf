"""Count at the door, before it decides: what it refuses has arrived all the same, and took its time."""

import time

from bench.answers import REFUSALS
from bench.parts.condition import Condition
from ringpost.http.door import Door
from ringpost.wire.http import Request, Response


def count_at_the_door(condition: Condition) -> None:
    """Let every door of this process note what comes and how quickly it is refused."""
    answer = Door.__call__

    async def counted(door: Door, request: Request) -> Response:
        condition.came(request.path)
        began_s = time.perf_counter()
        response = await answer(door, request)
        if response.status in REFUSALS:
            condition.refusals_ms.append((time.perf_counter() - began_s) * 1000)
        return response

    Door.__call__ = counted  # type: ignore[method-assign]
