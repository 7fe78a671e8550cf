"""An address that carries a password is refused without repeating it: error messages end up in logs."""

import pytest

from ringpost.client.target import origin_of
from ringpost.contract.errors import UsageError


@pytest.mark.parametrize("url", ["https://ann:pa55word@shop.example:8443", "https://shop.example/?token=pa55word"])
def test_what_an_address_carries_beside_the_place_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match=r"shop\.example with more is no address") as refused:
        origin_of(url)
    assert "pa55word" not in str(refused.value)
