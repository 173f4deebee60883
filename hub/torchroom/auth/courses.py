"""courses.toml as it is now: read again when it has changed.

A file that got broken changes nothing: what was read last goes on to count, and the log
says why. Only at the hub's start a broken file is an error.
"""

import logging
from pathlib import Path

from torchroom.membership import Membership, MembershipError, read
from torchroom.settings import SettingError

LOG = logging.getLogger(__name__)
SIZE_MAX = 5_000_000


class Courses:
    """The file and what it said last; without a file nobody is in anything."""

    def __init__(self, path: Path | None) -> None:
        """Read it.

        Raises:
            SettingError: It cannot be used.
        """
        self._path = path
        self._seen = self._stamp()
        self._membership = self._read()

    @property
    def membership(self) -> Membership:
        """Who is in what, now."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._membership = self._read_again()
            except SettingError as error:
                LOG.error("%s What it said before goes on to count.", error)
            else:
                LOG.info("%s has changed and was read again.", self._path)
        return self._membership

    def _read_again(self) -> Membership:
        """Read it while the hub runs: then it names somebody.

        Editors empty a file before they write it. Whoever asked in between would lose
        everything, and running servers with it.
        """
        found = self._read()
        if found.is_empty:
            raise SettingError(f"{self._path} names nobody.")
        return found

    def _read(self) -> Membership:
        if self._path is None:
            return Membership()
        try:
            if self._path.stat().st_size > SIZE_MAX:
                raise SettingError(f"{self._path} has more than {SIZE_MAX} bytes.")
            found = read(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingError(
                f"{self._path} cannot be read: {error.strerror}."
            ) from error
        except UnicodeDecodeError as error:
            raise SettingError(f"{self._path} is not plain text.") from error
        except MembershipError as error:
            raise SettingError(f"{self._path}: {error}") from error
        return found

    def _stamp(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            now = self._path.stat()
        except OSError:
            return None
        return now.st_mtime_ns, now.st_size, now.st_ino
