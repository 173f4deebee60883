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


def auth_state(found: Found, asked_at: float) -> dict[str, Any]:
    """Return what is kept of an answer; `Kept.of` reads it."""
    kept = {
        "subject": found.subject,
        "groups": sorted(found.groups or ()),
        "said_groups": found.groups is not None,
        "only_in_token": found.only_in_token,
        "asked_at": asked_at,
        "token_claims": sorted(found.token_claims),
        "word": str(Word.ANSWERED),
    }
    return {"token_response": dict(found.tokens), KEPT: kept}


def is_of_one_account(state: Any, other: Any) -> bool:
    """Whether two auth states are ours, and of the same account of the provider."""
    ours, theirs = Kept.of(state), Kept.of(other)
    return bool(ours and theirs and ours.subject == theirs.subject)


def with_refresh_token(state: Any, before: Any) -> Any:
    """Return an auth state that can be asked with again, if the one before it can.

    Some providers send a refresh token at somebody's first login only.
    """
    if not is_of_one_account(state, before):
        return state
    token = before.get("token_response", {}).get("refresh_token")
    told = state["token_response"]
    if not token or told.get("refresh_token"):
        return state
    return {**state, "token_response": {**told, "refresh_token": token}}
