"""For users' tests: the harness with virtual time and seeded faults, and the conformance suite that stores pass.

Nothing in production may need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringpost.testing import conformance
    from ringpost.testing.harness import Harness

__all__ = ["Harness", "conformance"]

if not TYPE_CHECKING:  # Type checkers would take it for "any name is here".

    def __getattr__(name: str) -> object:
        """Load at first use: who tests a store needs no services, who tests services no suite."""
        if name == "Harness":
            return import_module("ringpost.testing.harness").Harness
        if name == "conformance":
            return import_module("ringpost.testing.conformance")
        raise AttributeError(f"module 'ringpost.testing' has no attribute {name!r}")
