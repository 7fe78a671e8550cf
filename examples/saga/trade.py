"""What the three services agree on: an order is paid for, then shipped, or it is cancelled and paid back."""

from dataclasses import dataclass

from ringpost import Contract, Operation, Outcome, Problem

PAY_WITHIN_S = 3600.0
SHIP_WITHIN_S = 24 * 3600.0


@dataclass
class Order:
    """What somebody buys. Its id is the buyer's own, so that ordering twice is ordering once."""

    id: str
    card: str
    address: str
    cents: int


@dataclass
class Charge:
    order: str
    card: str
    cents: int


@dataclass
class Parcel:
    order: str
    address: str


class Declined(Problem, status=402, title="The card was declined"):
    """Said before any money has moved."""

    order: str


class Undeliverable(Problem, status=422, title="Nobody delivers there"):
    """Said before anything was packed."""

    order: str


class Payments(Contract):
    """Takes money, and gives it back."""

    charge = Operation(Charge, raises=[Declined], ttl=PAY_WITHIN_S)
    refund = Operation(str)  # compensates `charge`, whatever became of it


class Shipping(Contract):
    """Packs and hands over."""

    ship = Operation(Parcel, raises=[Undeliverable], ttl=SHIP_WITHIN_S)
    recall = Operation(str)  # compensates `ship`, whatever became of it


class Orders(Contract):
    """Where an order stands, and what it does when it hears how a step went."""

    place = Operation(Order, str)
    state = Operation(str, str, effect="read")
    paid = Operation(Outcome[Charge, None])
    shipped = Operation(Outcome[Parcel, None])
    refunded = Operation(Outcome[str, None])
