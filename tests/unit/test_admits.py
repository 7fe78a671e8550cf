"""How calls are let in: as the handler says, else its service, else the settings; and what was decided can be read."""

import pytest

from ringpost import Contract, Operation, Service
from ringpost.core.limit import Aimd, Fixed, Gradient
from ringpost.service.admits import Admits, slots_of
from ringpost.service.host import Host
from ringpost.service.service import HandlerOptions
from ringpost.settings import Settings


class Shop(Contract, name="shop_admits"):
    buy = Operation(str)


def decided(service: Service, settings: Settings | None = None, **options: object) -> tuple[Host, Admits]:
    chosen: HandlerOptions = options  # type: ignore[assignment]

    @service.implements(Shop.buy, **chosen)
    async def buy(what: str) -> None: ...

    host = Host([service], None, settings or Settings())
    return host, host.admits["shop_admits.buy"]


def test_by_default_it_is_aimd_from_four_to_the_concurrency() -> None:
    host, admits = decided(Service(Shop))
    assert admits == Admits("aimd", "settings", 4, 128, 256, "settings")
    slots = slots_of(host.handlers["shop_admits.buy"], admits)
    assert isinstance(slots.limiter, Aimd)
    assert (slots.total, slots.calls_max, slots.queue_max) == (128, 128, 256)


@pytest.mark.parametrize(
    ("handler", "service", "limiter", "said_by"),
    [
        ("fixed", "gradient", Fixed, "handler"),
        (None, "gradient", Gradient, "service"),
        (None, None, Aimd, "settings"),
    ],
)
def test_handler_before_service_before_settings(
    handler: str | None, service: str | None, limiter: type, said_by: str
) -> None:
    options = {} if handler is None else {"limiter": handler}
    declared = Service(Shop, limiter=service)  # type: ignore[arg-type]
    host, admits = decided(declared, Settings(limiter="aimd"), **options)
    assert isinstance(slots_of(host.handlers["shop_admits.buy"], admits).limiter, limiter)
    assert admits.limiter_from == said_by


def test_each_is_decided_by_itself() -> None:
    _, admits = decided(Service(Shop, call_queue=7), Settings(limit_least=9), limiter="gradient", concurrency=3)
    assert admits == Admits("gradient", "handler", 3, 3, 7, "service")
