"""All that the shop's services share: names, types, and the ways to say no."""

from dataclasses import dataclass

from ringpost import Contract, Event, Operation, Outcome, Problem


@dataclass
class NewUser:
    email: str
    name: str


@dataclass
class User:
    id: str
    email: str
    name: str


@dataclass
class Item:
    sku: str
    pieces: int = 1


@dataclass
class Price:
    sku: str
    cents: int


@dataclass
class ReportOrder:
    title: str
    pages: int


@dataclass
class Report:
    title: str
    registrations: int


class EmailTaken(Problem, status=409, title="This email is already registered"):
    email: str


class Accounts(Contract):
    """Who may sign in."""

    register = Operation(NewUser, User, raises=[EmailTaken], timeout=2)
    registered = Event(User)


class Mail(Contract):
    """What is written to users."""

    welcome = Operation(User)


class Pricing(Contract):
    """What things cost. It asks a slow supplier: two seconds a quote."""

    quote = Operation(Item, Price, timeout=10, effect="read")


class Analytics(Contract):
    """What happened, in numbers."""

    report = Operation(ReportOrder, Report)
    report_done = Operation(Outcome[ReportOrder, Report])
