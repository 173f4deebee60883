"""One SQLite file that several processes and threads have open."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BUSY_WITHIN_S = 10.0
TRY_EVERY_S = 0.02

Row = dict[str, Any]


class StoreError(Exception):
    """The file cannot be used; a sentence for an admin."""


class File:
    """One connection, usable from any thread; what was written outlives a kill.

    Args:
        path: Made if there is none.
        versions: SQL that brings the tables from each version to the next, the first
            one from nothing.

    Raises:
        StoreError: From every method, if the file cannot be used.
    """

    def __init__(self, path: Path, versions: Sequence[str]) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._in_sentences():
            self._db = sqlite3.connect(
                path,
                timeout=BUSY_WITHIN_S,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._db.row_factory = _as_dict
                self._write_ahead()
                self._db.execute("PRAGMA synchronous = FULL")
                self._prepare(versions)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def read(self, query: str, given: Sequence[Any] = ()) -> list[Row]:
        """Return what a query finds."""
        with self._lock, self._in_sentences():
            found: list[Row] = self._db.execute(query, given).fetchall()
            return found

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction, which is undone on any error."""
        with self._lock, self._in_sentences():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have ended it by itself
                    self._db.execute("ROLLBACK")
                raise

    def _write_ahead(self) -> None:
        """Turn the write-ahead log on; SQLite does not wait for others by itself."""
        deadline = time.monotonic() + BUSY_WITHIN_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
            else:
                return
            time.sleep(TRY_EVERY_S)

    def _prepare(self, versions: Sequence[str]) -> None:
        """Bring the tables to the last version.

        Raises:
            StoreError: They have one that is not known here.
        """
        with self.write() as db:
            version = int(db.execute("PRAGMA user_version").fetchone()["user_version"])
            if version > len(versions):
                raise StoreError(
                    f"{self._path} was made by a newer Torchroom (its version is "
                    f"{version}, this one knows {len(versions)}). Use that one again, "
                    "or move the file away."
                )
            for script in versions[version:]:
                for statement in filter(str.strip, script.split(";")):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(versions)}")

    @contextlib.contextmanager
    def _in_sentences(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"The steward's file {self._path} cannot be used: {error}."
            ) from error


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Row:
    names = (column[0] for column in cursor.description)
    return dict(zip(names, row, strict=True))
