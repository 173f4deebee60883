"""One JSON file per owner of something that must outlive the hub.

The file is always whole: a hub killed while it writes leaves the old or the new one.
Calls block on the disk (`save` waits for it); one at a time per file.
"""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpuspawner.errors import StoreFailed

log = logging.getLogger(__name__)

MODE = 0o600


class JsonStore:
    """Keeps one JSON object in one file that only the hub's user can read.

    Attributes:
        path: The file. Its folder must exist. Beside it, `<name>.new` is what is being
            written, and `<name>.damaged-<time>` what could not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content: str | None = None

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last; None if nothing was, or if it is damaged.

        A damaged file is put aside and a sentence is logged.

        Raises:
            StoreFailed: The file is there but cannot be read or put aside.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreFailed(f"{self.path} cannot be read: {error}.") from error
        try:
            content = raw.decode()
            data = json.loads(content)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            self._put_aside()
            return None
        self._content = content
        return data

    def save(self, data: Mapping[str, Any]) -> None:
        """Write the data, all of it or nothing; it is on the disk when this returns.

        Does nothing if it is what was saved or loaded last.

        Raises:
            StoreFailed: It is not surely on the disk; the file holds the old or the new
                content. The next call tries again.
        """
        try:
            content = json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"
            if content == self._content:
                return
            self._replace(content.encode())
        except (OSError, ValueError, TypeError) as error:
            raise StoreFailed(f"{self.path} cannot be written: {error}.") from error
        self._content = content

    def _replace(self, raw: bytes) -> None:
        # always the same name: a hub that is killed again and again leaves one
        new = self.path.with_name(f"{self.path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, MODE), "wb") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        # so that the new name, too, survives a power cut
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _put_aside(self) -> None:
        at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = self.path.with_name(f"{self.path.name}.damaged-{at}")
        try:
            self.path.rename(aside)
        except OSError as error:
            raise StoreFailed(
                f"{self.path} is damaged and cannot be put aside: {error}."
            ) from error
        log.error("%s was damaged: it is now %s; starting without it", self.path, aside)
