"""Write what in the documentation is generated from the code, between its `generated` marks.

usage: python tools/docs.py [--check]     with --check nothing is written; exit code 1 if something is out of date
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from ringpost.core import life

ROOT = Path(__file__).resolve().parent.parent
PARTS: dict[str, Callable[[], str]] = {}
MARK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def part(make: Callable[[], str]) -> Callable[[], str]:
    """Offer a generated part to the pages, by its function's name."""
    PARTS[make.__name__] = make
    return make


@part
def diagram() -> str:
    """The states of a message."""
    return f"```mermaid\n{life.mermaid().strip()}\n```"


@part
def transitions() -> str:
    """The life-cycle table."""
    return life.markdown().strip()


def fresh(text: str) -> str:
    """Give a page with its generated parts made anew."""
    return MARK.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", text)


def main() -> int:
    stale: list[str] = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        was = page.read_text(encoding="utf-8")
        now = fresh(was)
        if was != now:
            stale.append(str(page.relative_to(ROOT)))
            if "--check" not in sys.argv:
                page.write_text(now, encoding="utf-8")
    if stale:
        print(("out of date, run `make docs`: " if "--check" in sys.argv else "wrote ") + ", ".join(stale))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
