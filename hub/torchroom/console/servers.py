"""One's own servers: what they are warned of, and more time for them."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Path, Response, status
from pydantic import AfterValidator, BaseModel, Field

from torchroom.console.extending import is_extendable
from torchroom.console.guards import ConsoleOf, OwnServers
from torchroom.console.schemas import ExtensionIn
from torchroom.console.shown import At, Micro, Problem
from torchroom.ledger.names import NAME_MAX, check_name
from torchroom.steward.model import Notice

DEFAULT = "-"
"""Stands for the default server, which has no name, in an address."""

router = APIRouter(prefix="/me/servers", tags=["me"])


def _server_name(name: str) -> str:
    return "" if name == DEFAULT else check_name(name, "A server's name")


ServerName = Annotated[
    str,
    Path(
        min_length=1,
        max_length=NAME_MAX,
        description='The server\'s name, "-" for the default one.',
    ),
    AfterValidator(_server_name),
]


class NoticeOut(BaseModel):
    """What the owner of a server is told of its end."""

    lease: str
    server: str = Field(description='The server\'s name, "" for the default one.')
    reason: str = Field(description='"idle", "max_age", "window_over", ...')
    sentence: str = Field(description="What happens and why, for people.")
    stops_at: At | None = Field(
        description="null: as soon as what runs on its GPU has ended."
    )
    seconds_left: int | None = Field(
        description="Until then, 0 if it is past; for who has another clock."
    )
    extend_by_s: int = Field(description="What one extension adds.")
    microtokens: Micro = Field(description="Microtokens: what one extension costs.")
    n_extensions_left: int
    next_extension: int | None = Field(
        description="Its number, to be sent; null: there is none."
    )

    @classmethod
    def of(cls, notice: Notice, now: datetime) -> Self:
        """Return it as it is shown."""
        left = None
        if notice.stops_at is not None:
            left = max(0, int((notice.stops_at - now).total_seconds()))
        return cls(
            lease=notice.lease,
            server=notice.server,
            reason=notice.reason.value,
            sentence=notice.sentence,
            stops_at=notice.stops_at,
            seconds_left=left,
            extend_by_s=int(notice.extend_by.total_seconds()),
            microtokens=notice.extend_price,
            n_extensions_left=notice.n_extensions_left,
            next_extension=notice.next_extension if is_extendable(notice) else None,
        )


@router.get(
    "/{server}/notice",
    response_model=NoticeOut,
    responses={204: {"description": "There is nothing to say: it goes on."}},
)
async def notice(
    console: ConsoleOf, who: OwnServers, server: ServerName
) -> NoticeOut | Response:
    """What is to happen to a server of yours. A server's own token may ask this."""
    found = await console.extending.notice(who.name, server)
    if found is None:
        return Response(status_code=status.HTTP_204_NO_CONTENT)
    return NoticeOut.of(found, console.now())


@router.post(
    "/{server}/extension",
    response_model=NoticeOut,
    responses={
        200: {"model": NoticeOut, "description": "Taken before; nothing was paid now."},
        201: {"model": NoticeOut, "description": "Taken and paid."},
        402: {"model": Problem, "description": "The tokens do not suffice."},
        409: {
            "model": Problem,
            "description": "There is no such extension now, or of another lease.",
        },
    },
)  # fmt: skip
async def extend(
    console: ConsoleOf,
    who: OwnServers,
    server: ServerName,
    wanted: ExtensionIn,
    response: Response,
) -> NoticeOut:
    """Take more time for a server of yours. A server's own token may do this.

    Each extension of a server has a number, and is taken and paid once, however often
    it is asked for: so this needs no Idempotency-Key. None is sold while the steward
    does not see the servers: it stops none then.
    """
    done = await console.extending.extend(
        who.name, server, wanted.lease, wanted.extension, at=console.now()
    )
    response.status_code = (
        status.HTTP_201_CREATED if done.is_new else status.HTTP_200_OK
    )
    return NoticeOut.of(done.notice, console.now())
