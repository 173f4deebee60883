"""Taking everything away from somebody who is in no course any more.

Servers take their time to stop, so tasks of their own do that: nobody's request waits.
"""

import asyncio
import contextlib
from logging import Logger
from typing import Any

from torchroom.auth import rights
from torchroom.auth.states import States

PENDING_AGAIN_S, PENDING_MAX_S = 1, 1800


class Removal:
    """Removes people, and knows which servers it is stopping."""

    def __init__(self, states: States, log: Logger) -> None:
        self._states = states
        self.log = log
        self._stopping: set[asyncio.Task[None]] = set()

    async def remove(self, user: Any, *, stops: bool) -> None:
        """Take away everything: cookies, tokens, groups, admin, and running servers.

        Args:
            user: Whom.
            stops: Whether their servers are stopped. Not if the provider just sent no
                groups: that may be its admin's mistake, and would end every training.
        """
        rights.end_logins(user)
        rights.set_rights(user, {"admin": False, "groups": []})
        await self._states.save(user, None)
        self.log.warning("%s is in no course any more and lost access.", user.name)
        if stops:
            names = [name for name, s in user.spawners.items() if s.active]
            for name in names:
                stopping = asyncio.ensure_future(self._stop(user, name))
                self._stopping.add(stopping)
                stopping.add_done_callback(self._stopping.discard)

    async def _stop(self, user: Any, name: str) -> None:
        spawner = user.spawners[name]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PENDING_MAX_S):
                # it starts just now, or stops already; JupyterHub tells nobody when
                while spawner.pending:  # noqa: ASYNC110
                    await asyncio.sleep(PENDING_AGAIN_S)
        if not spawner.active:
            return
        # as JupyterHub does it at a request: nobody else starts or stops it meanwhile
        spawner._stop_pending, spawner._stop_future = True, asyncio.current_task()
        try:
            await user.settings["proxy"].delete_user(user, name)
            await user.stop(name)
        except Exception:  # any spawner's; the steward tries again
            self.log.exception("The server %s of %s did not stop.", name, user.name)
        finally:
            spawner._stop_pending, spawner._stop_future = False, None
