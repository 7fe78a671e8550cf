"""A process of the town on a disk that fails at its n-th operation: `failing_process.py ROLE ERROR N`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from disk import Ballot, Op, watched
from errors import ERRORS
from town import ROLES

if __name__ == "__main__":
    role, name, number = sys.argv[1:]
    error = next(error for error in ERRORS if error.name == name)

    def fail(op: Op) -> None:
        raise error.make()

    sys.argv = sys.argv[:2]
    with watched(Ballot(error.of, int(number), fail)):
        ROLES[role]()
