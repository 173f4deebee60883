"""What a route asks for: who asks, whether they may, the ledger, the key, the page.

Who asks comes first: without a good token nothing else of a request is looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request, Security
from fastapi.openapi.models import HTTPBearer as BearerModel
from fastapi.security.base import SecurityBase
from pydantic import AfterValidator

from torchroom.console import access, scopes
from torchroom.console.access import AS_SERVICE, Identity
from torchroom.console.extending import Extending
from torchroom.console.hub import Hub
from torchroom.console.refusals import NotAllowed, NotIdentified
from torchroom.ledger.names import NAME_MAX, check_name
from torchroom.ledger.service import Ledger

CURSOR_MAX = 200
KEY_MAX = 100
PAGE_DEFAULT = 50
PAGE_MAX = 200


@dataclass(frozen=True, slots=True)
class Console:
    """What every route works on; one per process.

    Attributes:
        ledger: The use-cases.
        hub: Who is who.
        extending: What users are told of their servers, and more time for them.
        now: The clock; aware UTC.
    """

    ledger: Ledger
    hub: Hub
    extending: Extending
    now: Callable[[], datetime]


def console_of(request: Request) -> Console:
    """Return what the application was made with."""
    console = request.app.state.console
    assert isinstance(console, Console)  # noqa: S101 - set once by `app.create`
    return console


class _HubToken(SecurityBase):
    """Takes a JupyterHub token from the header, as JupyterHub itself does."""

    def __init__(self) -> None:
        self.model = BearerModel(
            description="A JupyterHub API token. `Authorization: token ...` does, too."
        )
        self.scheme_name = "JupyterHub token"

    async def __call__(self, request: Request) -> str:
        """Return the token.

        Raises:
            NotIdentified: There is none.
        """
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() not in {"bearer", "token"} or not token.strip():
            raise NotIdentified(
                "No token was sent. Make one on the hub's Token page and send it as "
                "Authorization: Bearer TOKEN."
            )
        return token.strip()


ConsoleOf = Annotated[Console, Depends(console_of)]


def check_identity(who: Identity) -> Identity:
    """Return who asks, if nobody else is recorded under the same name.

    Raises:
        BadInput: The ledger takes no such names.
        NotAllowed: A user has the name under which a service is recorded.
    """
    check_name(who.name, "Your name")
    if who.kind == "user" and who.name.startswith(AS_SERVICE):
        raise NotAllowed(
            f"A user's name must not begin with {AS_SERVICE!r} here. Ask an admin to "
            "rename you."
        )
    return who


async def who_asks(
    console: ConsoleOf, token: Annotated[str, Security(_HubToken())]
) -> Identity:
    """Return the owner of the request's token.

    Raises:
        NotIdentified: The hub does not know the token.
        HubSilent: The hub does not answer.
    """
    who = await console.hub.identify(token)
    if who is None:
        raise NotIdentified("The hub does not know this token. Make a new one there.")
    return check_identity(who)


Who = Annotated[Identity, Depends(who_asks)]


def _user_name(name: str) -> str:
    return check_name(name, "A user's name")


def _course_name(name: str) -> str:
    return check_name(name, "A course's name")


UserName = Annotated[
    str, Path(min_length=1, max_length=NAME_MAX), AfterValidator(_user_name)
]
CourseName = Annotated[
    str, Path(min_length=1, max_length=NAME_MAX), AfterValidator(_course_name)
]


def own_balance(who: Who) -> Identity:
    """Let a user's token pass that may at least read the own balance."""
    if not access.may_read_own_balance(who):
        raise _lacks(who, f"{scopes.BALANCE}!user", is_for_users=True)
    return who


def own_account(who: Who) -> Identity:
    """Let a user's token pass that may read and redeem for its user."""
    if not access.may_act_for_self(who):
        raise _lacks(who, scopes.EVERYBODY, is_for_users=True)
    return who


def own_servers(who: Who) -> Identity:
    """Let a user's token pass that may see and extend its user's servers."""
    if not access.may_extend_own_servers(who):
        raise _lacks(who, f"{scopes.OWN_SERVERS}!user", is_for_users=True)
    return who


def admin(who: Who) -> Identity:
    """Let a token of the tokens' admins pass."""
    if not access.is_admin(who):
        raise _lacks(who, scopes.ADMIN)
    return who


def instructor(who: Who, course: CourseName) -> Identity:
    """Let a token pass that may run the course in the address."""
    if not access.may_run_course(who, course):
        raise _lacks(who, scopes.of_course(course))
    return who


def _lacks(who: Identity, scope: str, *, is_for_users: bool = False) -> NotAllowed:
    if is_for_users and who.kind != "user":
        return NotAllowed(
            "This is for users' own tokens; a service has no tokens of its own."
        )
    return NotAllowed(f"Your token lacks the scope {scope}.")


OwnBalance = Annotated[Identity, Depends(own_balance)]
OwnAccount = Annotated[Identity, Depends(own_account)]
OwnServers = Annotated[Identity, Depends(own_servers)]
Admin = Annotated[Identity, Depends(admin)]
Instructor = Annotated[Identity, Depends(instructor)]

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_MAX,
        pattern=r"^[!-~]+$",
        description="Yours to choose, new for every request; the same again to retry.",
    ),
]


Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="How many at most.")]
Cursor = Annotated[
    str | None,
    Query(max_length=CURSOR_MAX, description="`next` of the page before, if any."),
]
