"""Which account of the identity provider a name on the hub belongs to.

A name is whatever a claim says, and claims change: somebody marries, an address is
given to the next person, "Ada" and "ada" are two accounts. A name belongs to the
account that had it first, until an admin deletes the user; an account keeps its name.
"""

import sqlite3
from pathlib import Path

FILE = "accounts.sqlite"
_TABLE = """
create table if not exists account (
    name text primary key,
    issuer text not null,
    subject text not null,
    unique (issuer, subject)
) strict, without rowid
"""


class Accounts:
    """The table, in a file of its own.

    Every call is one row by its key; nothing here is worth a thread.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; make it when it is not there.

        Raises:
            sqlite3.DatabaseError: It is damaged, or not ours.
        """
        path.touch(mode=0o600)
        self._rows = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._rows.execute(_TABLE)

    def name_of(self, issuer: str, subject: str) -> str | None:
        """Return an account's name on the hub, None if it has none yet."""
        found = self._rows.execute(
            "select name from account where issuer = ? and subject = ?",
            (issuer, subject),
        ).fetchone()
        return str(found[0]) if found else None

    def bind(self, name: str, issuer: str, subject: str) -> bool:
        """Give a name to an account for good.

        Returns whether the name is the account's now: False if it is another's, or the
        account has another.
        """
        self._rows.execute(
            "insert or ignore into account values (?, ?, ?)", (name, issuer, subject)
        )
        return self.name_of(issuer, subject) == name

    def release(self, name: str) -> None:
        """Let the next account that asks for a name have it."""
        self._rows.execute("delete from account where name = ?", (name,))

    def close(self) -> None:
        """Close the file."""
        self._rows.close()
