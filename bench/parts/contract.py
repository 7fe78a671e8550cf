"""The contracts of the measurements, with a body of about 80 bytes."""

from msgspec import Struct

from ringpost import Contract, Operation


class Job(Struct):
    user_id: int
    email: str
    plan: str = "premium"
    sent_at: float = 0.0


class Bench(Contract):
    work = Operation(Job)


class Lines(Contract):
    work = Operation(Job, ordering_key=lambda job: job.email)


class After(Contract):
    work = Operation(Job)


class Echo(Contract):
    echo = Operation(Job, Job)


class Look(Contract):
    look = Operation(Job, Job, effect="read")


def job(number: int, sent_at: float = 0.0) -> Job:
    return Job(100_000 + number, f"user{100_000 + number}@example.com", "premium", sent_at)
