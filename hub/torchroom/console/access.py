"""Who asks, and what their scopes let them do. Decisions only; `hub` finds out who."""

from dataclasses import dataclass
from typing import Literal

from torchroom.console.scopes import ADMIN, BALANCE, COURSE, OWN_SERVERS, SELF

AS_SERVICE = "service "
"""Before a service's name, where it is recorded as the one who asked."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user or service, as the hub identified the owner of a token.

    Attributes:
        kind: See above.
        name: Its name.
        groups: Of a user; the courses among them are theirs.
        scopes: What this token may do, expanded by the hub: subscopes are in it, and
            `!user` stands there as `!user=NAME`.
    """

    kind: Literal["user", "service"]
    name: str
    scopes: frozenset[str]
    groups: tuple[str, ...] = ()

    @property
    def actor(self) -> str:
        """What is recorded as the one who asked."""
        return self.name if self.kind == "user" else AS_SERVICE + self.name

    def has(self, scope: str, **only: str) -> bool:
        """Whether the token has this scope, unfiltered or for just this thing.

        Args:
            scope: Without a filter.
            only: At most one filter that suffices, like ``user="alice"``.
        """
        wanted = {scope} | {f"{scope}!{what}={name}" for what, name in only.items()}
        return not wanted.isdisjoint(self.scopes)


def may_read_own_balance(who: Identity) -> bool:
    """Whether this is a user's own token that may at least read their balance."""
    return who.kind == "user" and who.has(BALANCE, user=who.name)


def may_act_for_self(who: Identity) -> bool:
    """Whether this is a user's own token that may read and redeem for them."""
    return who.kind == "user" and who.has(SELF, user=who.name)


def may_extend_own_servers(who: Identity) -> bool:
    """Whether this is a user's own token that may see and extend their servers."""
    return who.kind == "user" and who.has(OWN_SERVERS, user=who.name)


def may_run_course(who: Identity, course: str) -> bool:
    """Whether this token may read a course and hand out within it."""
    return who.has(COURSE, group=course)


def is_admin(who: Identity) -> bool:
    """Whether this token may do everything."""
    return who.has(ADMIN)
