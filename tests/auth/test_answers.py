"""Which of the answers about somebody counts, and what is made of the last one.

The database is JupyterHub's own. The provider says what a test wants, when it wants.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from auth import people
from jupyterhub.crypto import CryptKeeper
from testbed.login_hub import COURSES, STAFF, STUDENTS
from torchroom import membership
from torchroom.auth.answers import (
    KEPT,
    Found,
    Refused,
    Unreachable,
    Word,
    auth_state,
    with_refresh_token,
)
from torchroom.auth.authenticator import OidcAuthenticator
from torchroom.auth.refresh import Outcome, Refresh
from torchroom.auth.refusals import Refusal
from torchroom.auth.states import States

NOW = 9.0
WITHIN_S = 20


def state(token: str | None, **changed: Any) -> dict[str, Any]:
    """What is kept of an answer that came with a refresh token."""
    kept = auth_state(found(token), NOW)
    return kept | {KEPT: kept[KEPT] | changed}


def found(token: str | None, *groups: str) -> Found:
    told = {"access_token": "t"} | ({"refresh_token": token} if token else {})
    return Found(
        subject="1",
        claims={},
        groups=frozenset(groups or {STUDENTS}),
        only_in_token=False,
        token_claims=frozenset(),
        tokens=told,
    )


@pytest.fixture
def db() -> Iterator[Any]:
    """JupyterHub's database, which encrypts auth states."""
    CryptKeeper.clear_instance()
    CryptKeeper.instance(keys=[b"k" * 32])
    yield people.database()
    CryptKeeper.clear_instance()


@pytest.fixture
def ida(db: Any) -> Any:
    return people.user(db, "ida")


# ------------------------------------------------------- a refresh token that came once


def test_a_refresh_token_that_does_not_come_again_is_kept() -> None:
    assert with_refresh_token(state(None), state("first")) == state("first")
    assert with_refresh_token(state("new"), state("first")) == state("new")


def test_not_that_of_another_account() -> None:
    other = state(None, subject="2")
    assert with_refresh_token(other, state("first")) == other


def test_nor_of_what_is_none_of_ours() -> None:
    for before in (None, {}, {"access_token": "of another authenticator"}):
        assert with_refresh_token(state(None), before) == state(None)
    assert with_refresh_token(None, state("first")) is None


# ----------------------------------------------------------------- which of them counts


def finish(states: States, returned: Any, before: Any) -> Any:
    """What JupyterHub saves when a request ends that got an answer."""
    return states.reconciled(None, {"name": "ida", "auth_state": returned}, before)


async def test_what_is_stored_counts_when_the_hub_has_just_started(ida: Any) -> None:
    states = States()
    assert await states.of(ida) is None
    await ida.save_auth_state(state("a"))
    assert await states.of(ida) == state("a")
    assert finish(states, state("a"), state("a")) == state("a")


async def test_a_request_that_was_slow_does_not_bring_an_older_answer_back(
    ida: Any,
) -> None:
    """Its refresh token is used up: asking with it again ends the whole session."""
    states = States()
    older, newer = state("old"), state("new")
    await states.save(ida, older)
    await states.save(ida, newer)
    assert finish(states, older, newer) == newer
    await ida.save_auth_state(older)  # it looked before the newer one came
    assert await states.of(ida) == newer


async def test_neither_does_the_clock(ida: Any) -> None:
    """It may be set back between two answers."""
    states = States()
    older, newer = state("old", asked_at=99.0), state("new", asked_at=1.0)
    await states.save(ida, older)
    await states.save(ida, newer)
    assert finish(states, older, newer) == newer
    await ida.save_auth_state(older)
    assert await states.of(ida) == newer


async def test_nor_what_counted_before_the_provider_refused(ida: Any) -> None:
    states = States()
    refused = state("a", word=str(Word.REFUSED))
    await states.save(ida, refused)
    assert finish(states, state("a"), refused) == refused


async def test_nor_anything_of_somebody_who_was_removed(ida: Any) -> None:
    states = States()
    await states.save(ida, state("a"))
    await states.save(ida, None)
    assert finish(states, state("a"), None) is None
    await ida.save_auth_state(state("a"))
    assert await states.of(ida) is None


async def test_a_login_counts_from_the_moment_it_is_allowed(ida: Any) -> None:
    states = States()
    await states.save(ida, state("old", asked_at=99.0))
    states.log_in("ida", state("new"))
    assert await states.of(ida) == state("new")
    assert finish(states, state("new"), state("old")) == state("new")
    assert finish(states, state("old"), state("new")) == state("new")


async def test_a_login_without_a_refresh_token_goes_on_with_the_one_before(
    ida: Any,
) -> None:
    states = States()
    await ida.save_auth_state(state("first"))
    states.log_in("ida", state(None))
    assert await states.of(ida) == state("first")
    assert finish(states, state(None), state("first")) == state("first")


async def test_what_is_stored_of_another_account_or_taken_away_counts(
    ida: Any,
) -> None:
    states = States()
    await states.save(ida, state("a"))
    await ida.save_auth_state(None)
    assert await states.of(ida) is None
    await ida.save_auth_state(state("x", subject="2"))
    assert await states.of(ida) == state("x", subject="2")


async def test_nobody_changes_what_counts_by_changing_what_they_got(ida: Any) -> None:
    states = States()
    await states.save(ida, state("a"))
    (await states.of(ida))["token_response"] = {}
    assert await states.of(ida) == state("a")


async def test_of_a_deleted_user_nothing_is_known(ida: Any) -> None:
    states = States()
    await states.save(ida, state("a"))
    states.forget("ida")
    await ida.save_auth_state(state("b"))
    assert await states.of(ida) == state("b")


# --------------------------------------------- what happens while the provider is asked


class Provider:
    """Says what it is told to say, once it is told to."""

    log = logging.getLogger("test")

    def __init__(self) -> None:
        self.asked: asyncio.Queue[asyncio.Future[Found]] = asyncio.Queue()

    @staticmethod
    def clock() -> float:
        return NOW

    async def found_fresh(self, _state: Any, _kept: Any) -> Found:
        answer = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        found: Found = await answer
        return found


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def states() -> States:
    return States()


@pytest.fixture
def refresh(provider: Any, states: States) -> Refresh:
    courses: Any = SimpleNamespace(membership=membership.read(COURSES))
    return Refresh(provider, courses, states, offline_s=60, lapsed_s=6)


async def soon(waiting: Awaitable[Any]) -> Any:
    """Wait for what must come."""
    return await asyncio.wait_for(waiting, WITHIN_S)


async def begun(refresh: Refresh, provider: Provider, user: Any) -> Any:
    """Begin a refresh; returns it, and what the provider is to say."""
    task = asyncio.ensure_future(refresh.outcome(user))
    return task, await soon(provider.asked.get())


async def test_who_asks_meanwhile_shares_the_answer(
    refresh: Refresh, provider: Provider, states: States, ida: Any
) -> None:
    await states.save(ida, state("a"))
    first, answer = await begun(refresh, provider, ida)
    second = asyncio.ensure_future(refresh.outcome(ida))
    answer.set_result(found("b"))
    assert await soon(second) == await soon(first)
    assert first.result().model["groups"] == ["ml101"]
    assert provider.asked.empty()
    third, answer = await begun(refresh, provider, ida)
    answer.set_result(found("c"))
    kept = (await soon(third)).model["auth_state"]
    assert kept["token_response"]["refresh_token"] == "c"


@pytest.mark.parametrize("said", [Refused("it is over"), Unreachable("is down")])
async def test_a_login_meanwhile_counts_and_is_asked_about(
    refresh: Refresh, provider: Provider, states: States, ida: Any, said: Exception
) -> None:
    """What is said of the session before says nothing of the new one."""
    await states.save(ida, state("old"))
    asked, answer = await begun(refresh, provider, ida)
    refresh.log_in("ida", state("new"))
    answer.set_exception(said)
    again = await soon(provider.asked.get())
    assert await states.of(ida) == state("new")
    again.set_result(found("newer", STAFF))
    outcome = await soon(asked)
    assert (outcome.model["admin"], outcome.needs_login) == (True, False)


def delete(states: States, db: Any, user: Any) -> None:
    """Delete a user, as an admin does."""
    states.forget(user.name)
    db.delete(user.orm_user)
    db.commit()


async def test_an_answer_is_not_shared_with_the_next_owner_of_a_name(
    refresh: Refresh, provider: Provider, states: States, ida: Any, db: Any
) -> None:
    """An admin's name that is free again gives nobody an admin's rights."""
    await states.save(ida, state("a"))
    before, answer = await begun(refresh, provider, ida)
    delete(states, db, ida)
    next_one = people.user(db, "ida")
    theirs = state("x", subject="2")
    refresh.log_in("ida", theirs)
    await next_one.save_auth_state(theirs)
    asked, answer_of_next = await begun(refresh, provider, next_one)
    answer.set_result(found("b", STAFF))
    assert await soon(before) == Outcome(is_deleted=True)
    assert await states.of(next_one) == theirs
    shared = asyncio.ensure_future(refresh.outcome(next_one))
    answer_of_next.set_result(found("y"))
    assert (await soon(asked)).model["groups"] == ["ml101"]
    assert await soon(shared) == asked.result()


async def test_who_is_deleted_meanwhile_is_nobody(
    refresh: Refresh, provider: Provider, states: States, ida: Any, db: Any
) -> None:
    await states.save(ida, state("a"))
    asked, answer = await begun(refresh, provider, ida)
    delete(states, db, ida)
    answer.set_result(found("b", STAFF))
    assert await soon(asked) == Outcome(is_deleted=True)


async def test_the_request_of_the_deleted_is_refused(ida: Any, db: Any) -> None:
    """JupyterHub would go on with it, with all that they might do before."""
    login = OidcAuthenticator()
    db.delete(ida.orm_user)
    db.commit()
    with pytest.raises(Refusal, match="has deleted the user ida"):
        await login.refresh_user(ida)
