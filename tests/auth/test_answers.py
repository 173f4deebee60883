"""Which of two answers about an account is kept."""

from types import SimpleNamespace
from typing import Any

from torchroom.auth.answers import KEPT, Word, newest, reconciled


def state(asked_at: float, token: str | None, **changed: Any) -> dict[str, Any]:
    kept = {"subject": "1", "groups": [], "said_groups": True, "only_in_token": False}
    told = {"access_token": "t"} | ({"refresh_token": token} if token else {})
    return {"token_response": told, KEPT: kept | {"asked_at": asked_at} | changed}


def after(new: Any, before: Any) -> Any:
    return reconciled(SimpleNamespace(clock=lambda: 9.0), {"auth_state": new}, before)


def test_a_request_that_was_slow_does_not_bring_an_older_answer_back() -> None:
    """Its refresh token is used up: asking with it again ends the whole session."""
    older, newer = state(1, "old"), state(2, "new")
    assert after(older, newer) == newer
    assert after(newer, older) == newer


def test_nor_what_counted_before_the_provider_refused() -> None:
    answered, refused = state(1, "a"), state(1, "a", word=str(Word.REFUSED))
    assert after(answered, refused) == refused


def test_an_answer_of_the_future_gives_way() -> None:
    """The machine's clock was wrong, and a new login must count."""
    assert after(state(8, "new"), state(99, "old")) == state(8, "new")


def test_a_refresh_token_that_does_not_come_again_is_kept() -> None:
    assert after(state(2, None), state(1, "first")) == state(2, "first")


def test_not_that_of_another_account() -> None:
    assert after(state(2, None, subject="2"), state(1, "first")) == state(
        2, None, subject="2"
    )
    assert after(state(1, "x", subject="2"), state(2, "y")) == state(
        1, "x", subject="2"
    )


def test_without_an_earlier_one_the_new_one_counts() -> None:
    for before in (None, {}, {"access_token": "of another authenticator"}):
        assert after(state(1, "a"), before) == state(1, "a")
    assert after(None, state(1, "a")) is None


def test_of_two_answers_the_newer_counts_whatever_is_stored() -> None:
    older, newer = state(1, "old"), state(2, "new")
    assert newest(newer, older) == newest(older, newer) == newer
    again = state(2, "renewed, but the provider said nothing else")
    assert newest(again, newer) == again


def test_what_is_stored_of_another_account_or_of_nobody_counts() -> None:
    other = state(1, "x", subject="2")
    assert newest(state(2, "y"), other) == other
    assert newest(state(2, "y"), None) is None
    assert newest(None, other) == other
