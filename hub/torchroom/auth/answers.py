"""What an identity provider says of an account, and what is kept of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

KEPT = "torchroom"
"""Where in the auth state is what we keep."""
ENDS_AT = "ends_at"
"""Where, in what came with an access token, is until when it counts."""
TOKENS = ("access_token", "refresh_token", "token_type", "scope", ENDS_AT)


class Unreachable(Exception):
    """The provider says nothing of anybody.

    It does not answer, or not as it should, or refuses the hub itself.
    """


class Expired(Exception):
    """The provider takes a code or token no more."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class Refused(Expired):
    """By the provider's word the session is over: it was no mere lapse of time.

    It took no refresh token, or no access token that should still count, or answered
    for another account.
    """


class Word(StrEnum):
    """What the provider said last, beside what somebody is."""

    ANSWERED = ""
    LAPSED = "lapsed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Found:
    """What the provider says of an account now.

    Attributes:
        subject: Which account.
        claims: All it says.
        groups: None: it says nothing about groups.
        only_in_token: The groups came in the id_token alone.
        token_claims: The required claims that are in id_tokens alone.
        tokens: To ask again with.
    """

    subject: str
    claims: Mapping[str, Any]
    groups: frozenset[str] | None
    only_in_token: bool
    token_claims: frozenset[str]
    tokens: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the last answer was; in the auth state."""

    subject: str
    groups: frozenset[str]
    said_groups: bool
    only_in_token: bool
    asked_at: float
    token_claims: frozenset[str] = frozenset()
    word: Word = Word.ANSWERED

    @classmethod
    def of(cls, state: Any) -> "Kept | None":
        """Return what an auth state has, None if it has none of ours."""
        try:
            row = state[KEPT]
            return cls(
                subject=str(row["subject"]),
                groups=frozenset(row["groups"]),
                said_groups=bool(row["said_groups"]),
                only_in_token=bool(row["only_in_token"]),
                asked_at=float(row["asked_at"]),
                token_claims=frozenset(row.get("token_claims", ())),
                word=Word(row.get("word", "")),
            )
        except (TypeError, KeyError, ValueError):
            return None


def to_keep(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return of what came with a token what it takes to ask again."""
    return {name: told[name] for name in TOKENS if told.get(name) is not None}


def newest(saved: Any, stored: Any) -> Any:
    """Return the auth state that counts.

    Args:
        saved: The last one that this hub saved of an answer.
        stored: The one in the database: of a login, or of a slow request.
    """
    ours, theirs = Kept.of(saved), Kept.of(stored)
    if ours is None or theirs is None or ours.subject != theirs.subject:
        return stored
    return saved if ours.asked_at >= theirs.asked_at else stored


def reconciled(login: Any, model: Mapping[str, Any], before: Any) -> Any:
    """Return the auth state to keep of an answer, and of what is kept already.

    Each request that waited for an answer brings it, the slowest maybe after the next
    one. And some providers send a refresh token once only.
    """
    state = model["auth_state"]
    old, new = Kept.of(before), Kept.of(state)
    if old is None or new is None or old.subject != new.subject:
        return state
    if new.asked_at <= old.asked_at <= login.clock():  # not of a clock that was wrong
        return before
    token = before.get("token_response", {}).get("refresh_token")
    told = state["token_response"]
    if token and not told.get("refresh_token"):
        return {**state, "token_response": {**told, "refresh_token": token}}
    return state
