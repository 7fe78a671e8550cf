"""How an error is logged: with its traceback, but in a line where the store isn't there, as a service that works on has
hundreds of those in a minute, and where each was noticed tells nobody anything."""

import logging

from ringpost.contract.errors import StoreError

DAMAGED = (
    "%d of %s are dead (checksum): what is stored of them has changed. Look at the disk, and at `ringpost dead list`"
)


def log_error(log: logging.Logger, level: int, error: BaseException, text: str, *values: object) -> None:
    """Log an error. `text` and `values` say what couldn't be done, as for `Logger.log`."""
    if isinstance(error, StoreError):
        log.log(level, f"{text}: %s", *values, error, stacklevel=2)
    else:
        log.log(level, text, *values, exc_info=error, stacklevel=2)
