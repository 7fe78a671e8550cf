"""Sessions of other libraries that handlers take, and what they have to be for one commit to hold everything."""

from abc import ABC, abstractmethod

from ringpost.service.context import Context
from ringpost.store.port import Joining


class Lender(ABC):
    """Provides a session to each handling that takes one, and has the handling end in that session's transaction."""

    provides: type
    """Which class its sessions are of."""

    @abstractmethod
    def __call__(self, ctx: Context) -> object:
        """Give a session, whose transaction is the handling's."""

    @abstractmethod
    async def check(self, store: Joining) -> None:
        """Look whether its sessions are on the store's database. Raises UsageError where they aren't, StoreError where
        that can't be found out."""
