"""What drivers raise, as the ledger's errors.

The driver's own words go into the log, and to an admin; a user does not get them.
"""

import contextlib
import logging
from collections.abc import Iterator

import psycopg
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    TimeoutError,  # noqa: A004 - of the pool
)

from torchroom.ledger.errors import Corrupt, Unavailable

log = logging.getLogger(__name__)
_SQLSTATES_TO_RETRY = {"40001", "40P01"}  # could not serialize; deadlock


class Conflict(Unavailable):
    """Two writers were in each other's way and this one gave up; `run` tries again."""


@contextlib.contextmanager
def in_sentences(*, is_for_admin: bool = False) -> Iterator[None]:
    """Raise the ledger's errors instead of a driver's.

    Raises:
        Conflict: Trying again is all it takes.
        Unavailable: The database does not do what it is asked.
        Corrupt: It refused a row.
    """
    try:
        yield
    except IntegrityError as error:
        log.error("ledger refused a row reason=%s", _reason(error.orig))
        raise Corrupt(
            "The ledger refused a change that breaks one of its rules. Nothing was "
            "changed. An admin finds more in the log."
        ) from error
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.UndefinedTable):
            raise  # a mistake in this code
        raise _unavailable(error, is_for_admin=is_for_admin) from error
    except DBAPIError as error:
        raise _unavailable(error, is_for_admin=is_for_admin) from error
    except (TimeoutError, OSError) as error:
        raise _unavailable(error, is_for_admin=is_for_admin) from error


def _unavailable(error: Exception, *, is_for_admin: bool) -> Unavailable:
    """Return what to raise for a database that does not do what it is asked."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    reason = _reason(cause)
    is_conflict = getattr(cause, "sqlstate", None) in _SQLSTATES_TO_RETRY or (
        "database is locked" in reason
    )
    if is_conflict:
        return Conflict("The ledger is busy. It is safe to try again.")
    log.error("ledger unavailable reason=%s", reason)
    if is_for_admin:
        return Unavailable(f"The ledger's database cannot be used: {reason}")
    return Unavailable(
        "The token ledger cannot be reached right now. It is safe to try again."
    )


def _reason(cause: BaseException | None) -> str:
    """Return the driver's first line: the rest may quote rows."""
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
