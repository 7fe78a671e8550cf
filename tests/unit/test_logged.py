"""How an error is logged: one line where the store isn't there, else with its traceback."""

import logging

import pytest

from ringpost.contract.errors import StoreError
from ringpost.store.logged import log_error

LOG = logging.getLogger("ringpost.test")


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "said", "trace"),
    [
        (StoreError("the store h is not there"), "7 failed: the store h is not there", False),
        (ValueError("x"), "7 failed", True),
    ],
)
def test_where_the_store_is_away_a_line_says_so(
    error: Exception, said: str, trace: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log_error(LOG, logging.WARNING, _raised(error), "%d failed", 7)
    (record,) = caplog.records
    assert record.getMessage() == said
    assert record.levelno == logging.WARNING
    assert record.filename == "test_logged.py", "it is logged by whoever says it"
    assert (record.exc_info is not None) == trace
