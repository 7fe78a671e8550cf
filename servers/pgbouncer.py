"""A real pgbouncer in transaction mode before a real PostgreSQL. There is no wheel of it; Debian has it.

Like PostgreSQL it refuses to run as root, and runs as `nobody` then.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from servers.postgres import RealPostgres
from servers.programs import NoServer, free_port, launched, server_user

POOL_SIZE = 3
_START_S = 20.0
_CONFIG = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool_size}
server_idle_timeout = 1
"""


class RealPgbouncer:
    """One pooler; it has fewer connections to the server than the tests have to it."""

    def __init__(self, server: RealPostgres) -> None:
        self._server = server
        self._folder = Path(tempfile.mkdtemp(prefix="ringpost-pgbouncer-"))
        self._user = server_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._program = ""
        self.port = free_port()

    def start(self) -> None:
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise NoServer("pgbouncer isn't installed (Debian: apt install pgbouncer)")
        config = _CONFIG.format(
            host=self._server.folder,
            server_port=self._server.port,
            port=self.port,
            folder=self._folder,
            pool_size=POOL_SIZE,
        )
        (self._folder / "users").write_text('"postgres" ""\n')
        (self._folder / "config").write_text(config)
        for path in (self._folder, *self._folder.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self._program = program
        self._launch()

    def cut(self) -> None:
        """Let it die, with all connections, and start it again."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_START_S)
        self._launch()

    def _launch(self) -> None:
        argv = [self._program, str(self._folder / "config")]
        self._process = launched(argv, self._folder, self._user)
        self._wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()  # it keeps nothing
            self._process.wait(_START_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Give the URL as a store behind a pooler has it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?statement_cache_size=0"

    def _wait(self) -> None:
        assert self._process is not None
        until_s = time.monotonic() + _START_S
        while time.monotonic() < until_s and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.02)  # it says nothing that could be waited for
        raise NoServer(f"pgbouncer did not start: {(self._folder / 'log').read_text()[-500:]}")
