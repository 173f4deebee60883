"""Which of the answers that are kept of somebody counts: the one that came last.

An answer is kept as JupyterHub's auth state, encrypted in its database. JupyterHub
saves it once more at the end of each request that waited for it, and a slow one puts an
older answer over a newer one. The refresh token of that is used up: asking with it
again ends the whole session at the provider. So the order is that in which answers came
to this process, whatever the database has, and whatever the clock says.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torchroom.auth.answers import is_of_one_account, with_refresh_token


class States:
    """Auth states by name: what came since the hub's start, else the database's."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Any] | None] = {}

    def log_in(self, name: str, state: dict[str, Any]) -> None:
        """Let what a login brought count; JupyterHub is about to save it."""
        self._last[name] = state

    async def save(self, user: Any, state: dict[str, Any] | None) -> None:
        """Let an answer count, or none any more."""
        self._last[user.name] = state
        await user.save_auth_state(state)

    async def of(self, user: Any) -> Any:
        """Return a copy of what counts, None if nothing does."""
        stored = await user.get_auth_state()
        return deepcopy(self._counting(user.name, stored, stored))

    def forget(self, name: str) -> None:
        """Know nothing of a deleted user any more."""
        self._last.pop(name, None)

    def reconciled(self, _login: Any, model: Mapping[str, Any], before: Any) -> Any:
        """Return what JupyterHub is to save for a login or a refresh.

        It is JupyterHub's `reconcile_auth_state_hook`.

        Args:
            model: What the login or the refresh returned, however long ago.
            before: What the database has.
        """
        return self._counting(model["name"], model["auth_state"], before)

    def _counting(self, name: str, state: Any, stored: Any) -> Any:
        last = self._last.get(name, state)
        # of another account, or an admin took it away: that is no older answer
        if last is not None and not is_of_one_account(last, state):
            last = state
        return with_refresh_token(last, stored)
