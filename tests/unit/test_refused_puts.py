"""What a store refuses has an answer of its own: whoever reads it learns whether to wait, to change or to make room."""

from typing import get_args

import pytest

from ringpost.service.reservation import refused
from ringpost.store.port import Put, Refused

ANSWERS = {"key_reused": 422, "mismatch": 422, "full": 429, "disk": 507}


@pytest.mark.parametrize("why", [why for why in get_args(Refused) if why])
def test_every_refusal_is_answered_by_its_status(why: Refused) -> None:
    answer = refused(Put(bytes(16), refused=why), "shop.buy")
    assert answer.status == ANSWERS[why]
    assert not answer.processed
    assert (answer.retry_after_s is not None) == (answer.status in (429, 507))
