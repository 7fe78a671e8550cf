"""Count at the door, before it decides: what it refuses has arrived all the same, and took its time."""

import time

from bench.answers import REFUSALS
from bench.parts.condition import Condition
from ringpost.http.door import Door
from ringpost.wire.http import Request, Response


def count_at_the_door(condition: Condition) -> None:
    """Let every door of this process note what comes and how quickly it is refused, at once or after a wait: from when
    the loop that read the request's last byte woke up, to when its answer is ready to be written."""
    answer, turn_away = Door.__call__, Door.turn_away

    def refused(request: Request) -> None:
        condition.refusals_ms.append((time.monotonic() - request.arrived_s) * 1000)

    def turned_away(door: Door, request: Request, crowded: bool = False) -> Response | None:
        response = turn_away(door, request, crowded)
        if response is not None:  # else it comes to the door
            condition.came(request.path)
            refused(request)
        return response

    async def answered(door: Door, request: Request) -> Response:
        condition.came(request.path)
        response = await answer(door, request)
        if response.status in REFUSALS:
            refused(request)
        return response

    Door.turn_away = turned_away  # type: ignore[method-assign]
    Door.__call__ = answered  # type: ignore[method-assign]
