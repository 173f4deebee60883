"""When jupyterhub-idle-culler 2 would stop a server that the hub describes. Pure.

Servers without a GPU end by its logic, so that a site's figures keep their meaning;
tests/steward compares it with the real one.
"""

from datetime import datetime, timedelta


def idle_end(
    last_activity: datetime | None, started: datetime | None, timeout: timedelta
) -> datetime | None:
    """Return when a server was without activity for `timeout`.

    A server that saw none yet counts from its start; None if that is unknown, too.
    """
    since = started if last_activity is None else last_activity
    return None if since is None else since + timeout


def age_end(started: datetime | None, max_age: timedelta) -> datetime | None:
    """Return when a server reached an age; None if its start is unknown."""
    return None if started is None else started + max_age
