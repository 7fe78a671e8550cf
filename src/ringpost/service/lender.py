"""Sessions of other libraries that handlers take, and what they have to be for one commit to hold everything."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from ringpost.store.port import Joining


class Lender(ABC):
    """A provider of a session for each handling that takes one, whose transaction the handling then ends in.

    It is called as every provider is, with what its parameters name; among them is the Context.
    """

    provides: type
    """Which class its sessions are of."""

    @abstractmethod
    async def check(self, store: Joining, resources: Mapping[object, object]) -> None:
        """Look whether its sessions are on the store's database; `resources` of the service, by type.

        Raises UsageError where they aren't, StoreError where that can't be found out.
        """
