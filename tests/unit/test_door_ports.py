"""Where the door listens, and what counts as a change of files."""

import os
import socket
from pathlib import Path

import pytest

from ringpost import Service, UsageError, run
from ringpost.http.ports import bind, parse_address, tls_context
from ringpost.http.watch import Watch
from ringpost.settings import Settings


def test_addresses() -> None:
    assert parse_address("127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert parse_address("[::1]:0") == ("::1", 0)
    assert parse_address(":8000") == ("", 8000)
    assert parse_address("8000") == ("127.0.0.1", 8000)


@pytest.mark.parametrize("text", ["localhost", "a:b", "a:99999", "::1:80", "", "http://a:80", "[::1:80"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        parse_address(text)


def test_the_default_port_moves_where_it_is_taken_and_a_given_one_doesnt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        moved = bind(Settings(http=f"127.0.0.1:{port}"))
        assert moved is not None
        assert moved.moved_from == port
        assert not moved.url.endswith(f":{port}")
        moved.close()
        with pytest.raises(UsageError, match="is taken"):
            bind(Settings(http=f"127.0.0.1:{port}", http_given=True))


def test_what_is_bound_listens_at_once() -> None:
    bound = bind(Settings(http="127.0.0.1:0", http_given=True))
    assert bound is not None
    port = int(bound.url.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    assert bind(Settings(http=None)) is None
    bound.close()


def test_the_url_of_all_addresses_leads_here() -> None:
    bound = bind(Settings(http="0.0.0.0:0", http_given=True))
    assert bound is not None
    assert bound.url.startswith("http://127.0.0.1:")
    bound.close()


def test_a_certificate_that_cant_be_used_is_named(tmp_path: Path) -> None:
    assert tls_context(Settings()) is None
    missing = str(tmp_path / "no.pem")
    with pytest.raises(UsageError, match=r"no\.pem"):
        tls_context(Settings(tls_cert=missing, tls_key=missing))


def test_memory_isnt_shared_by_processes() -> None:
    with pytest.raises(UsageError, match="store of its own"):
        run(Service(name="lonely"), store="memory:", workers=2)


def test_the_watch_sees_sources_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    source = tmp_path / "package" / "a.py"
    source.write_text("1")
    for folder in (".hidden", "__pycache__", "venv"):
        (tmp_path / folder).mkdir()
    watch = Watch(tmp_path)
    assert watch.changed() is None
    for other in (".hidden/a.py", "__pycache__/a.py", "venv/a.py", "data.db"):
        (tmp_path / other).write_text("1")
    assert watch.changed() is None
    os.utime(source, ns=(1, 1))
    assert watch.changed() == str(source)
    assert watch.changed() is None
    new = tmp_path / "ringpost.toml"
    new.write_text("")
    assert watch.changed() == str(new)
    source.unlink()
    assert watch.changed() == str(source)
