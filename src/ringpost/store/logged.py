"""How an error is logged: with its traceback, but in a line where the store isn't there, as a service that works on has
hundreds of those in a minute, and where each was noticed tells nobody anything."""

import logging
from collections.abc import Sequence

from ringpost.contract.errors import StoreError
from ringpost.core import ids

NAMED_MAX = 5  # of what was damaged at once


def log_damaged(log: logging.Logger, queue: str, damaged: Sequence[bytes]) -> None:
    """Log which messages are dead as they aren't what was put any more, by their ids."""
    named = ", ".join(ids.text(id) for id in damaged[:NAMED_MAX])
    more = " …" if len(damaged) > NAMED_MAX else ""
    text = (
        "%d of %s are dead (checksum): what is stored of them has changed: %s%s. Look at the disk; `ringpost dead show`"
        " says what can be done"
    )
    log.error(text, len(damaged), queue, named, more)


def log_error(log: logging.Logger, level: int, error: BaseException, text: str, *values: object) -> None:
    """Log an error. `text` and `values` say what couldn't be done, as for `Logger.log`."""
    if isinstance(error, StoreError):
        log.log(level, f"{text}: %s", *values, error, stacklevel=2)
    else:
        log.log(level, text, *values, exc_info=error, stacklevel=2)
