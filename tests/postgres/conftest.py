"""A PostgreSQL server of our own for these tests: Debian's, in a temporary directory, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "postmill"


def programs() -> Path:
    """The directory of initdb and pg_ctl: Debian keeps them out of PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parts[-2]), reverse=True)
    on_path = shutil.which("initdb")
    found = [*places, *([Path(on_path).parent] if on_path else [])]
    if not found:
        pytest.fail("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    return found[0]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """`postgresql://postmill@127.0.0.1:PORT`; a database is made by appending its name, see `database`."""
    pytest.importorskip("psycopg2", reason="pip install 'postmill[postgres]'")
    folder = Path(tempfile.mkdtemp(prefix="postmill-postgres-"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    data, log = folder / "data", folder / "log"
    run = _as_somebody(folder)
    run("initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
    run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        yield f"postgresql://{USER}@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def _as_somebody(folder: Path):  # type: ignore[no-untyped-def]
    """Runs PostgreSQL's programs; as another user where we are root, whom they refuse."""
    somebody: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        somebody = ["setpriv", "--reuid=nobody", "--clear-groups"]

    def run(program: str, *arguments: object) -> None:
        command = [*somebody, str(programs() / program), *map(str, arguments)]
        # its output goes to a file: a server that keeps our pipe open would never let us go on
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, cwd="/", stdout=output, stderr=subprocess.STDOUT, timeout=60)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()

    return run


@pytest.fixture
def database(postgres: str) -> str:
    """Address of an empty database."""
    import psycopg2

    name = f"d{os.urandom(4).hex()}"
    connection = psycopg2.connect(f"{postgres}/postgres")
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()
    return f"{postgres}/{name}"
