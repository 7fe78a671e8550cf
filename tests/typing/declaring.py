"""Declaring: contracts, operations, events, problems. Each line marked `wrong` must be refused, and no other."""

from datetime import datetime, timedelta

from shop import Accounts, EmailTaken, NewUser, OutOfStock, User

from ringpost import Contract, Event, Operation, Problem

register = Operation(NewUser, User, name="register", doc="Sign in.", ttl=60, priority="high", sunset=datetime.now())
told = Event(User, name="told", doc="Somebody came.", keep=timedelta(days=1))


class Named(Contract, name="shop"):
    register = Operation(NewUser, User, raises=(EmailTaken, OutOfStock))


class Gone(Problem, status=410, title="It is gone", code="long_gone"):
    since: int
    by: str = "nobody"


Gone(5)
Gone(since=5, by="me", detail="Last year.")

Operation()  # wrong
Operation(5)  # wrong
Operation(NewUser("a", "b"), User)  # wrong
Operation(request=NewUser, reply=User)  # wrong
Operation(NewUser, User, [EmailTaken])  # wrong
Operation(NewUser, User, raises=EmailTaken)  # wrong
Operation(NewUser, User, raises=[ValueError])  # wrong
Operation(NewUser, User, raises=[EmailTaken("a")])  # wrong
Operation(NewUser, User, timeout="2")  # wrong
Operation(NewUser, User, timout=2)  # wrong
Operation(NewUser, User, priority="urgent")  # wrong
Operation(NewUser, User, effect="write")  # wrong
Operation(NewUser, ordering_key=lambda new: new.street)  # wrong
Operation(NewUser, ordering_key=lambda new: len(new.email))  # wrong
Event(User, User)  # wrong
Event(User, timeout=2)  # wrong
Event(User, ordering_key=lambda user: user.street)  # wrong
Gone()  # wrong
Gone("5")  # wrong
Gone(5, since=5)  # wrong
Gone(5, where="here")  # wrong
Accounts.register(NewUser("a", "b"))  # wrong
Accounts.registered(User("1", "a"))  # wrong
print(Accounts.regster)  # wrong
