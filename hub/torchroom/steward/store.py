"""The steward's SQLite file: what users are told, what was done, what must not be lost.

Several processes have it open: the steward, the console, the command line. Each call is
one transaction; all of them are blocking, so asynchronous callers use threads.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from torchroom.steward import rows
from torchroom.steward.file import File
from torchroom.steward.model import (
    Claim,
    Event,
    Extension,
    Look,
    Message,
    Notice,
    Post,
    Seen,
    Told,
)
from torchroom.steward.schema import VERSIONS

FILE = "steward.sqlite"
EVENTS_MAX = 10_000
PAGE_MAX = 1000
EXTENSIONS_KEPT = timedelta(days=400)


class TooLate(Exception):
    """An extension would change nothing any more; a sentence why."""


Noted = tuple[Event, Sequence[Post]]
"""An event, and whom to tell."""


class Store:
    """One connection, usable from any thread.

    Attributes:
        path: Of the file.
        id: The file's own: another one that is made in its place has another.

    Raises:
        StoreError: From every method, if the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = File(path, VERSIONS)
        (row,) = self._file.read("SELECT id FROM files")
        self.id = str(row["id"])

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the store of a data folder; makes the file if there is none.

        Raises:
            StoreError: See there.
        """
        return cls(folder / FILE)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # -- what users are told ---------------------------------------------------------

    def notice_of(self, user: str, server: str) -> Notice | None:
        """Return what the owner of a server is told now, None if nothing.

        Args:
            user: The owner.
            server: "" for the default server.
        """
        found = self._file.read(
            "SELECT * FROM notices WHERE user = ? AND server = ?"
            " ORDER BY published_at DESC LIMIT 1",
            [user, server],
        )
        return rows.to_notice(found[0]) if found else None

    def notices(self) -> list[Notice]:
        """Return all that is told now, ordered by lease."""
        found = self._file.read("SELECT * FROM notices ORDER BY lease")
        return [rows.to_notice(row) for row in found]

    # -- extensions ------------------------------------------------------------------

    def extend(self, notice: Notice, at: datetime) -> bool:
        """Keep the server for `extend_by` beyond what the notice says.

        Only the console calls this. The steward never stops a server between this
        call's success and the extension's end for a reason that can be extended.

        Args:
            notice: What the user answered; its `next_extension` is taken.
            at: Now.

        Returns:
            False if this extension of this lease was taken before; nothing changes.

        Raises:
            TooLate: The server is being stopped, or its owner is not told of a stop any
                more. A fee that was taken must be given back.
            ValueError: The notice offers no extension.
        """
        if notice.n_extensions_left < 1 or notice.stops_at is None:
            raise ValueError("This notice offers no extension.")
        with self._file.write() as db:
            key = [notice.lease, notice.next_extension]
            if _has(db, "extensions WHERE lease = ? AND k = ?", key):
                return False
            if _has(db, "claims WHERE lease = ?", [notice.lease]):
                raise TooLate("It is too late: the server is being stopped.")
            if not _has(db, "notices WHERE lease = ?", [notice.lease]):
                raise TooLate(
                    "Nothing is to be extended any more: the server was stopped "
                    "already, or it goes on."
                )
            db.execute(
                "DELETE FROM extensions WHERE at < ?",
                [rows.text(at - EXTENSIONS_KEPT)],
            )
            _insert(db, "extensions", rows.from_taken(notice, at))
        return True

    def taken(self, user: str, server: str, lease: str, k: int) -> Notice | None:
        """Return what an extension came to, None if its owner did not take it.

        Args:
            user: The owner.
            server: "" for the default server.
            lease: Which lease was extended.
            k: The extension's number.
        """
        found = self._file.read(
            "SELECT * FROM extensions"
            " WHERE lease = ? AND k = ? AND user = ? AND server = ?",
            [lease, k, user, server],
        )
        return rows.to_taken(found[0]) if found else None

    def extensions(
        self, leases: Iterable[str] | None = None
    ) -> dict[str, list[Extension]]:
        """Return the extensions of these leases, or of all, in their order."""
        query, given = "SELECT * FROM extensions", []
        if leases is not None:
            query += " WHERE lease IN (SELECT value FROM json_each(?))"
            given = [json.dumps(sorted(leases))]
        found: dict[str, list[Extension]] = {}
        for row in self._file.read(f"{query} ORDER BY lease, k", given):
            found.setdefault(row["lease"], []).append(rows.to_extension(row))
        return found

    # -- what was done ---------------------------------------------------------------

    def events(self, limit: int = 100, before: int | None = None) -> list[Event]:
        """Return events, the newest first.

        Args:
            limit: How many at most, itself at most PAGE_MAX.
            before: Only those with a lower number.
        """
        found = self._file.read(
            "SELECT * FROM events WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?",
            [before, before, max(0, min(limit, PAGE_MAX))],
        )
        return [rows.to_event(row) for row in found]

    def seen(self) -> list[Seen]:
        """Return what the steward thought of every server at its last look."""
        found = self._file.read("SELECT * FROM seen ORDER BY user, server, lease")
        return [rows.to_seen(row) for row in found]

    def look(self) -> Look | None:
        """Return how the last look went; None before the first."""
        found = self._file.read("SELECT * FROM looks")
        return rows.to_look(found[0]) if found else None

    # -- what the steward must know after a restart ----------------------------------

    def told(self) -> dict[str, Told]:
        """Return who was warned, by lease."""
        return {
            row["lease"]: rows.to_told(row)
            for row in self._file.read("SELECT * FROM told")
        }

    def claims(self) -> dict[str, Claim]:
        """Return the stops that were decided and may be half done, by lease."""
        return {
            row["lease"]: rows.to_claim(row)
            for row in self._file.read("SELECT * FROM claims")
        }

    def keep(
        self,
        look: Look,
        *,
        notices: Iterable[Notice],
        told: Iterable[Told],
        seen: Iterable[Seen],
        noted: Iterable[Noted] = (),
    ) -> None:
        """Keep what a complete look came to, all of it or nothing.

        Of the events only the last EVENTS_MAX are kept, and so are their messages.
        """
        with self._file.write() as db:
            _replace(db, "notices", map(rows.from_notice, notices))
            _replace(db, "told", map(rows.from_told, told))
            _replace(db, "seen", map(rows.from_seen, seen))
            _replace(db, "looks", [rows.from_look(look) | {"one": 1}])
            for event, posts in noted:
                _note(db, event, posts)

    def keep_trouble(self, at: datetime, trouble: str) -> None:
        """Keep that a look saw nothing; what the last complete one said stays."""
        last = self.look() or Look(at, None)
        row = rows.from_look(replace(last, at=at, trouble=trouble)) | {"one": 1}
        with self._file.write() as db:
            _replace(db, "looks", [row])

    def claim(self, claim: Claim, n_extensions: int) -> bool:
        """Decide that a server is stopped; from now on it cannot be extended.

        Args:
            claim: Why, and how far it is.
            n_extensions: How many were known when it was judged.

        Returns:
            False if more were taken meanwhile: then nothing is decided.
        """
        with self._file.write() as db:
            taken = db.execute(
                "SELECT 1 FROM extensions WHERE lease = ?", [claim.lease]
            ).fetchall()
            if len(taken) > n_extensions:
                return False
            _insert(db, "claims", rows.from_claim(claim), verb="INSERT OR REPLACE")
        return True

    def unclaim(self, lease: str, noted: Noted | None = None) -> None:
        """End a claim, whether the server was stopped or is kept.

        The notice and the warning go with it. Nothing happens if there is no claim.

        Args:
            lease: Whose.
            noted: What to keep of it.
        """
        with self._file.write() as db:
            gone = db.execute("DELETE FROM claims WHERE lease = ?", [lease])
            if not gone.rowcount:
                return
            db.execute("DELETE FROM notices WHERE lease = ?", [lease])
            db.execute("DELETE FROM told WHERE lease = ?", [lease])
            if noted:
                _note(db, *noted)

    def mark(
        self, lease: str, *, is_sent: bool = False, failed: Event | None = None
    ) -> None:
        """Keep how far a claim is; an event of a failure is kept once per claim."""
        with self._file.write() as db:
            if is_sent:
                db.execute("UPDATE claims SET is_sent = 1 WHERE lease = ?", [lease])
            if failed is None:
                return
            first = db.execute(
                "UPDATE claims SET has_failed = 1 WHERE lease = ? AND NOT has_failed",
                [lease],
            )
            if first.rowcount:
                _note(db, failed, ())

    # -- the outbox ------------------------------------------------------------------

    def due(self, hook: str, now: datetime, limit: int = 50) -> list[Message]:
        """Return messages that are to be sent now, the oldest first."""
        found = self._file.read(
            "SELECT outbox.id AS message, hook, stops_at, n_tries, next_at, events.*"
            " FROM outbox JOIN events ON events.id = event"
            " WHERE hook = ? AND next_at <= ? ORDER BY next_at, message LIMIT ?",
            [hook, rows.text(now), limit],
        )
        return [rows.to_message(row) for row in found]

    def next_post(self, hook: str) -> datetime | None:
        """Return when the next message is to be sent; None if there is none."""
        query = "SELECT min(next_at) AS at FROM outbox WHERE hook = ?"
        (first,) = self._file.read(query, [hook])
        return None if first["at"] is None else datetime.fromisoformat(first["at"])

    def keep_posts_of(self, hooks: Iterable[str]) -> None:
        """Forget the messages for all others."""
        with self._file.write() as db:
            db.execute(
                "DELETE FROM outbox WHERE hook NOT IN (SELECT value FROM json_each(?))",
                [json.dumps(sorted(hooks))],
            )

    def posted(self, id_: str) -> None:
        """Forget a message: it arrived, or it is given up."""
        with self._file.write() as db:
            db.execute("DELETE FROM outbox WHERE id = ?", [id_])

    def try_again(self, id_: str, next_at: datetime) -> None:
        """Keep that a message did not arrive."""
        with self._file.write() as db:
            db.execute(
                "UPDATE outbox SET n_tries = n_tries + 1, next_at = ? WHERE id = ?",
                [rows.text(next_at), id_],
            )


def _has(db: sqlite3.Connection, where: str, given: Sequence[Any]) -> bool:
    query = f"SELECT 1 FROM {where}"  # noqa: S608 - written above
    return db.execute(query, given).fetchone() is not None


def _note(db: sqlite3.Connection, event: Event, posts: Sequence[Post]) -> None:
    cursor = _insert(db, "events", rows.from_event(event))
    number = int(cursor.lastrowid or 0)
    for post in posts:
        row = {
            "id": post.id,
            "hook": post.hook,
            "event": number,
            "stops_at": rows.text_or_none(post.stops_at),
            "n_tries": 0,
            "next_at": rows.text(event.at),
        }
        _insert(db, "outbox", row, verb="INSERT OR IGNORE")
    db.execute("DELETE FROM events WHERE id <= ?", [number - EVENTS_MAX])
    db.execute("DELETE FROM outbox WHERE event <= ?", [number - EVENTS_MAX])


def _replace(
    db: sqlite3.Connection, table: str, found: Iterable[Mapping[str, Any]]
) -> None:
    db.execute(f"DELETE FROM {table}")  # noqa: S608 - a name of ours
    for row in found:
        _insert(db, table, row)


def _insert(
    db: sqlite3.Connection, table: str, row: Mapping[str, Any], *, verb: str = "INSERT"
) -> sqlite3.Cursor:
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    query = f"{verb} INTO {table} ({names}) VALUES ({marks})"
    return db.execute(query, list(row.values()))
