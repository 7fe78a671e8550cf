"""Draw what a run saw over time, in an environment of its own: nothing else here needs matplotlib."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import children
from bench.children import ROOT
from bench.peers import environment
from bench.session import Session

DRAW_S = 120.0


class NotDrawn(Exception):
    """The pictures could not be drawn; the message says why."""


def draw(session: Session, document: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw every chart of a document into a folder as SVG; give the files."""
    argv = [str(environment.drawing(session)), "-m", "bench.draw", "-", str(folder.resolve())]
    try:
        drawn = subprocess.run(
            argv,
            input=json.dumps(document),
            cwd=ROOT,
            env=children.environment(),
            check=True,
            capture_output=True,
            text=True,
            timeout=DRAW_S,
        )
    except subprocess.CalledProcessError as error:
        raise NotDrawn(error.stderr.strip()[-500:]) from error
    return drawn.stdout.split()
