"""A PostgreSQL server of the run's own: only a socket, only for the run.

Debian's binaries are used without Debian's cluster. The server refuses to run as root,
so a root run starts it as another user. It ends with this process, however that ends.
"""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psycopg

START_S = 60
STOP_S = 20
TEMPLATE = "ledger_template"
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    # Nothing here must survive a power cut.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


def binaries() -> Path | None:
    """The folder of the newest server that is installed, None if there is none."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = sorted(found, key=lambda path: int(path.parents[1].name))
    return newest[-1].parent if newest else None


def why_no_postgres() -> str:
    """Why no server can be started; empty if one can."""
    if binaries() is None:
        return "no PostgreSQL server in /usr/lib/postgresql (make test installs one)"
    if os.geteuid() == 0 and _unprivileged() is None:
        return "PostgreSQL does not run as root, and there is no other user for it"
    return ""


class Postgres:
    """A server, from `with` to its end."""

    def __init__(self) -> None:
        self._bin = binaries() or Path()
        # A socket's path must be shorter than 100 characters, so not pytest's folder.
        self._dir = Path(tempfile.mkdtemp(prefix="torchroom-pg-", dir="/tmp"))
        self._server: subprocess.Popen[bytes] | None = None
        self._number = itertools.count(1)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def url(self, database: str) -> str:
        """Return the address of a database, as people write it."""
        return f"postgresql://postgres@/{database}?host={self._dir}"

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """A database for one test, a copy of another one; yields its address."""
        name = f"test_{next(self._number)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.url(name)
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def sql(self, statement: str) -> None:
        """Run one statement outside any transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _start(self) -> None:
        data = self._dir / "data"
        if user := _unprivileged():
            os.chown(self._dir, user.pw_uid, user.pw_gid)
        made = subprocess.run(
            [
                *self._as_user(),
                self._bin / "initdb",
                *("--pgdata", data),
                *("--username", "postgres"),
                *("--auth", "trust"),
                *("--encoding", "UTF8"),
                *("--locale", "C"),
                "--no-sync",
                "--no-instructions",
            ],
            cwd=self._dir,
            check=False,
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed: {made.stderr or made.stdout}")
        settings = [
            word for pair in SETTINGS.items() for word in ("-c", "=".join(pair))
        ]
        with (self._dir / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [
                    *self._as_user("--pdeathsig", "QUIT"),
                    self._bin / "postgres",
                    *("-D", data),
                    *("-k", self._dir),
                    *settings,
                ],
                cwd=self._dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Not pytest's Ctrl-C: tests that end still need it.
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        """Return when the server answers."""
        until = time.monotonic() + START_S
        while True:
            try:
                self.sql("SELECT 1")
            except psycopg.OperationalError as error:
                has_ended = self._server is None or self._server.poll() is not None
                if has_ended or time.monotonic() > until:
                    log = (self._dir / "log").read_text()
                    raise RuntimeError(f"PostgreSQL did not start: {log}") from error
                time.sleep(0.02)
            else:
                return

    def _stop(self) -> None:
        if self._server is not None:
            self._signal(signal.SIGINT)  # its fast shutdown: connections are cut
            try:
                self._server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGQUIT)
                self._server.wait(STOP_S)
        shutil.rmtree(self._dir, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(number)

    @staticmethod
    def _as_user(*options: str) -> list[str]:
        """Return what runs a command as somebody who may run the server."""
        if user := _unprivileged():
            group = f"--regid={user.pw_gid}"
            options += (f"--reuid={user.pw_uid}", group, "--clear-groups")
        return ["setpriv", *options, "--"] if options else []


def _unprivileged() -> pwd.struct_passwd | None:
    """Return the user that a root run starts the server as, None if not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None
