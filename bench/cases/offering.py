"""What the experiments have in common: a chain of processes that is told how to be, and an open loop of requests."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench import children
from bench.answers import Answer, Span, good_share
from bench.children import ROOT, Child
from bench.peers import environment
from bench.session import Session

SCRIPT = ROOT / "bench" / "peers" / "scripts" / "chain_server.py"
COUNT_S = 30.0
MORE_S = 30.0  # beyond its length an open loop may take so long to start and to write down what it saw
ENOUGH = 0.98  # of the requests answered well: so much is still called carrying the load
STEP = 1.15
STEPS_MAX = 16
LEAST_SHARE = 0.1

_answers = msgspec.msgpack.Decoder(list[Answer])


class Link(Struct, frozen=True):
    """One process of a chain; `plain`: FastAPI and httpx. The options are those of its part or script."""

    name: str
    options: Mapping[str, Any]
    plain: bool = False


class Running(Struct):
    """A link that runs."""

    child: Child
    url: str

    def tell(self, word: str) -> float:
        """Change its condition; give the instant at which it took it."""
        self.child.tell(word)
        at_s: float = self.child.says("condition", COUNT_S)["at_s"]
        return at_s

    def counted(self) -> dict[str, Any]:
        """Ask what it has counted so far."""
        self.child.tell("count")
        counted: dict[str, Any] = self.child.says("counted", COUNT_S)["counted"]
        return counted


class Offered(Struct):
    """An open loop that is over: what became of each request, and how busy its generator was."""

    answers: list[Answer]
    span: Span
    rate: float
    cpu: float  # of one core


@contextmanager
def chain(session: Session, folder: Path, links: Sequence[Link]) -> Generator[dict[str, Running]]:
    """Run a chain, given from its end; each link knows the address of the one before it in this list."""
    with ExitStack() as stack:
        running: dict[str, Running] = {}
        url = ""
        for link in links:
            options = {**link.options, "link": link.name}
            if link.plain:
                options["next_url"] = url
                argv = [str(environment.python(session)), str(SCRIPT), msgspec.json.encode(options).decode()]
                child = stack.enter_context(children.started(argv, folder, children.environment()))
                url = child.says("url")["url"]
            else:
                addresses = {"addresses": f"{chr(ord(link.name) + 1)}={url}"} if url else {}
                child = stack.enter_context(children.part("chain", folder, addresses, **options))
                url = child.notes("the door is at ")
            running[link.name] = Running(child, url)
        try:
            yield running
        finally:
            for one in running.values():
                one.child.kill()  # nothing of it is needed any more, and to say good-bye takes seconds


@contextmanager
def offered(
    folder: Path, url: str, kinds: Sequence[Mapping[str, Any]], rate: float, seconds: float, seed: int
) -> Generator[Callable[[], Offered]]:
    """Offer requests while the block runs, which begins as the first goes out; what it gives waits for the end."""
    into = folder / f"answers-{seed}"
    options = {"url": url, "kinds": list(kinds), "rate": rate, "seconds": seconds, "into": str(into), "seed": seed}
    with children.part("offer", folder, **options) as generator:
        generator.says("ready")
        generator.tell("go")
        began_s: float = generator.says("began_s")["began_s"]

        def end() -> Offered:
            said = generator.says("offered", seconds + MORE_S)
            generator.says("written", MORE_S)
            answers = _answers.decode(into.read_bytes())
            into.unlink()
            return Offered(answers, Span(began_s, began_s + seconds), rate, said["cpu"])

        yield end


def offer(
    folder: Path, url: str, kinds: Sequence[Mapping[str, Any]], rate: float, seconds: float, seed: int
) -> Offered:
    """Offer requests, and give what became of them."""
    with offered(folder, url, kinds, rate, seconds, seed) as end:
        return end()


def carried(
    session: Session, folder: Path, url: str, kinds: Sequence[Mapping[str, Any]], first: float, step_s: float
) -> float:
    """Find the highest rate of which all but a few requests are answered well. In the least form it isn't looked for:
    a rate that any machine carries."""
    if session.least:
        return first * LEAST_SHARE

    def carries(rate: float) -> bool:
        share = good_share(offer(folder, url, kinds, rate, step_s, round(rate)).answers)
        session.say(f"  offered {rate:,.0f}/s: {share:.1%} answered in time")
        return share >= ENOUGH

    offer(folder, url, kinds, first, step_s, 1)  # connections are opened, limits are found
    return highest(carries, first, STEPS_MAX)


def highest(carries: Callable[[float], bool], first: float, steps: int) -> float:
    """Give the highest rate that is carried, by so many steps upward from the first, or downward where it is not."""
    rate = first
    if carries(rate):
        for _ in range(steps):
            if not carries(rate * STEP):
                break
            rate *= STEP
        return rate
    for _ in range(steps):
        rate /= STEP
        if carries(rate):
            break
    return rate


def until(instant_s: float) -> None:
    """Wait for an instant of the experiment's clock: what happens then is its plan."""
    time.sleep(max(0.0, instant_s - time.monotonic()))
