"""What somebody is when they are asked about again, while their login lasts.

Four things are told apart:

- "Not a member any more" takes everything away at once (`removal`).
- "The provider is down" lets the last answer count for `offline_s`, and then nobody
  gets further without a new login.
- "The provider refused" (see `Refused`) ends the power over others and new servers at
  once.
- "The access token is over, and there is no other" does so `lapsed_s` after the last
  answer.

In the last two what runs goes on until `offline_s`, and reports with its token.
"""

import asyncio
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import inspect

from torchroom.auth import claims, rights, tokens
from torchroom.auth.answers import (
    KEPT,
    Expired,
    Found,
    Kept,
    Refused,
    Unreachable,
    Word,
    auth_state,
)
from torchroom.auth.asking import AskingAuthenticator
from torchroom.auth.courses import Courses
from torchroom.auth.removal import Removal
from torchroom.auth.states import States
from torchroom.membership import Standing


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a refresh came to.

    Attributes:
        model: What the user is now; None: nothing that can be.
        is_removed: They are no member any more, and all was taken away.
        is_deleted: An admin deleted them meanwhile.
        needs_login: A new login would help.
    """

    model: Mapping[str, Any] | None = None
    is_removed: bool = False
    is_deleted: bool = False
    needs_login: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """The provider did not say what somebody is.

    Attributes:
        why: For the log.
        word: What it said last.
    """

    why: str
    word: Word


class Refresh:
    """Asks again about people, about each of them once at a time."""

    def __init__(
        self,
        provider: AskingAuthenticator,
        courses: Courses,
        states: States,
        *,
        offline_s: float,
        lapsed_s: float,
    ) -> None:
        """Get to know what decides, and for how long the last answer counts.

        Args:
            provider: Is asked.
            courses: Say who is a member.
            states: What is kept of the answers.
            offline_s: How long an answer counts when there is no newer one.
            lapsed_s: How long it gives power when the access token is over.
        """
        self._provider = provider
        self._courses = courses
        self._states = states
        self._offline_s, self._lapsed_s = offline_s, lapsed_s
        self._removal = Removal(states, provider.log)
        self.log = provider.log
        self._running: dict[str, asyncio.Task[Outcome]] = {}

    async def outcome(self, user: Any) -> Outcome:
        """Ask about somebody, or wait for who does already.

        Requests that come at once share one answer: a refresh token can often be used
        once only, and a second use ends the whole session at the provider.
        """
        if not inspect(user.orm_user).persistent:
            return Outcome(is_deleted=True)
        name = user.name
        task = self._running.get(name)
        if task is None:
            task = asyncio.ensure_future(self._outcome(user))
            self._running[name] = task
            task.add_done_callback(lambda done: self._end(name, done))
        return await asyncio.shield(task)

    def log_in(self, name: str, state: dict[str, Any]) -> None:
        """Let what a login brought count, and no answer that was asked for before.

        Who waits for such an answer waits for one about the new session.
        """
        self._states.log_in(name, state)
        self._running.pop(name, None)

    async def gives_power(self, user: Any) -> bool:
        """Whether what is kept of somebody lets them start servers; asks nobody."""
        kept = Kept.of(await self._states.of(user))
        return kept is not None and self._has_power(kept)

    async def _outcome(self, user: Any) -> Outcome:
        before = await self._states.of(user)
        kept = Kept.of(before)
        if kept is None:
            return Outcome(needs_login=True)
        state = deepcopy(before)
        said = await self._said(state, kept)
        if self._is_outdated(user):
            return await self.outcome(user)
        if isinstance(said, Found):
            return await self._answered(user, said)
        state[KEPT]["word"] = str(said.word)
        if state != before:
            await self._states.save(user, state)
        return await self._unanswered(user, replace(kept, word=said.word), said.why)

    def _end(self, name: str, task: asyncio.Task[Outcome]) -> None:
        if self._running.get(name) is task:
            del self._running[name]

    def _is_outdated(self, user: Any) -> bool:
        """Whether somebody logged in, or was deleted, while the provider was asked."""
        is_asked = self._running.get(user.name) is asyncio.current_task()
        return not is_asked or not inspect(user.orm_user).persistent

    async def _said(self, state: dict[str, Any], kept: Kept) -> Found | Silence:
        try:
            return await self._provider.found_fresh(state, kept)
        except Unreachable as error:
            return Silence(str(error), kept.word)
        except (Refused, tokens.TokenError, claims.ClaimError) as error:
            return Silence(str(error), Word.REFUSED)
        except Expired as error:
            return Silence(str(error), kept.word or Word.LAPSED)

    async def _answered(self, user: Any, found: Found) -> Outcome:
        standing = self._standing(user, found.groups or ())
        if not standing.is_member:
            await self._removal.remove(user, stops=found.groups is not None)
            return Outcome(is_removed=True)
        model = rights.model_of(user.db, user.name, standing)
        state = auth_state(found, self._provider.clock())
        await self._states.save(user, state)
        return Outcome(model | {"auth_state": state})

    async def _unanswered(self, user: Any, kept: Kept, why: str) -> Outcome:
        standing = self._standing(user, kept.groups)
        if not standing.is_member:  # courses.toml has changed
            await self._removal.remove(user, stops=True)
            return Outcome(is_removed=True)
        age_s = self._provider.clock() - kept.asked_at
        self.log.warning(
            "What %s is could not be asked for %.0f s: %s.", user.name, age_s, why
        )
        has_power = self._has_power(kept)
        if not has_power:
            standing = rights.without_power(standing)
        model = rights.model_of(user.db, user.name, standing)
        if not has_power:
            # now, and not only where JupyterHub takes the answer: not if it is False
            rights.set_rights(user, model)
        if not 0 <= age_s <= self._offline_s:
            return Outcome(needs_login=True)
        return Outcome(model, needs_login=kept.word is not Word.ANSWERED)

    def _standing(self, user: Any, groups: Iterable[str]) -> Standing:
        return self._courses.membership.standing(user.name, groups)

    def _has_power(self, kept: Kept) -> bool:
        """Whether the last answer still gives power over others, and new servers."""
        if kept.word is Word.LAPSED:
            age_s = self._provider.clock() - kept.asked_at
            return bool(0 <= age_s <= self._lapsed_s)
        return kept.word is not Word.REFUSED
