"""Services at work on PostgreSQL behind the fault proxy, and what may be lost between the two."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from breaking import MODES
from pg_wire import Statements
from servers.postgres import RealPostgres
from tcp_proxy import Asked, End, TcpProxy
from written_rows import Load, a_load

LEASE_S = 2.0
_ENDS: list[End] = ["reset", "close", "silence"]


class Cutting:
    """A load whose way to the server leads through a proxy. `commits`: the requests that commit, by what they do."""

    def __init__(self, proxy: TcpProxy, commits: dict[str, Asked], load: Load) -> None:
        self.proxy = proxy
        self.commits = commits
        self.load = load

    async def broken_by_chance(self, chance: random.Random) -> str:
        """Break the path in one way, or lose one answer; says what it was, once the path is well again."""
        what = chance.choice([*MODES, *self.commits])
        if callable(what):
            await what(self.proxy)
            return what.__name__
        how = chance.choice(_ENDS)
        await self.proxy.lose_answer(self.commits[what], how).wait()
        return f"answer to {what}: {how}"


def _commits(statements: Statements) -> dict[str, Asked]:
    claim = "ORDER BY k.priority, k.seq"
    alone, together = statements.runs(claim), statements.commits(claim)
    return {
        "a put": statements.runs('INSERT INTO "ringpost".letter'),
        "a put under a key": statements.commits("l.dedup = ANY"),
        "a settled batch": statements.commits("SAVEPOINT deferred"),
        "a handler's transaction": statements.commits("'execute'"),
        "a renewal": statements.runs("set_config('synchronous_commit', 'off', true) FROM own"),
        "a claim": lambda link, data: alone(link, data) or together(link, data),
    }


@asynccontextmanager
async def a_cutting(server: RealPostgres) -> AsyncIterator[Cutting]:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        commits = _commits(Statements(proxy))
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/"
        async with a_load(server, lambda database: url + database, LEASE_S) as load:
            yield Cutting(proxy, commits, load)
        proxy.heal()
