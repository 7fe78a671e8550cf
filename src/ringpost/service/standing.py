"""Where a handler stands: the line of its author's own code at which it waits, for an error that has to name it."""

import asyncio
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

thread_of: ContextVar[int | None] = ContextVar("ringpost_thread", default=None)
"""The thread in which a `def` handler runs, seen also by what it asks the event loop for."""

_PACKAGE = str(Path(__file__).parent.parent)
_OTHERS = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def standing(task: "asyncio.Task[Any]", loop_thread: int, thread: int | None) -> str:
    """Say where a task stands, or the `def` handler in a thread that it waits for. May be called from any thread."""
    try:
        frames = _frames(task, loop_thread, thread)
        frame = next((one for one in frames if _own(one)), frames[0])
        file, line = frame.f_code.co_filename, frame.f_lineno
        text = linecache.getline(file, line).strip()
        return f"{os.path.basename(file)}:{line} in {frame.f_code.co_name}" + (f": {text}" if text else "")
    except Exception:  # noqa: BLE001 (what it looks at runs on meanwhile, and the error that it is for matters more)
        return "an unknown place"


def _frames(task: "asyncio.Task[Any]", loop_thread: int, thread: int | None) -> list[FrameType]:
    """Give the frames, innermost first: of a thread, or of what the task awaits."""
    if thread is None and asyncio.current_task(task.get_loop()) is task:
        thread = loop_thread
    if thread is not None:
        return list(_up(sys._current_frames()[thread]))
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append(frame)
        awaited = awaited.cr_await
    frames.reverse()
    return frames


def _up(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _own(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return not file.startswith((_PACKAGE, "<")) and not file.startswith(_OTHERS)
