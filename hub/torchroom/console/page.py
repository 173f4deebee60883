"""The page "Your tokens": the balance, how long it lasts, and vouchers to redeem.

It shows which of one's servers are about to stop, too, and takes more time for them.

Plain HTML without scripts. What it shows and does is what the REST API does.

Users' servers have the same origin, unless the hub gives them subdomains. Then a script
of a page of such a server can read this page and send its form, as whoever looks at it:
it opens a window. Refusing what scripts fetch does not keep it from that. A site whose
users are strangers to each other needs subdomains.
"""

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jinja2
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from torchroom.console import access, statements
from torchroom.console.access import Identity
from torchroom.console.extending import is_extendable, price_text
from torchroom.console.guards import Console, check_identity, console_of
from torchroom.console.login import LOGIN_S, SESSION_S, Attempt, Session, Sessions
from torchroom.console.refusals import NotAllowed, StewardSilent
from torchroom.ledger.amounts import text_of
from torchroom.ledger.errors import LedgerError
from torchroom.ledger.forecast import duration_text
from torchroom.ledger.model import Kind
from torchroom.steward.model import Notice

FOLDER = Path(__file__).parent / "page"
ENTRIES = 20
DIGITS_MAX = 10
SESSION, LOGIN = "torchroom-session", "torchroom-login"
CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
WORDS = {
    "grant": "Granted",
    "welcome": "Welcome",
    "import": "Carried over",
    "voucher": "Voucher",
    "topup": "Top-up",
    "hand_out": "From your course",
    "allowance": "From your course",
    "take_back": "Taken back",
    "return": "Back to your course",
    "lapse": "Expired",
    "settle": "Server",
    "refund": "Refund",
    "fee": "Fee",
    "fee_back": "Fee given back",
}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, auto_reload=False
)
_TEMPLATES.filters |= {
    "tokens": text_of,
    "duration": duration_text,
    "price": price_text,
}
_TEMPLATES.tests |= {"extendable": is_extendable}


Deed = Callable[[Console, Session, Identity, dict[str, str]], Awaitable[None]]
"""Does what a form asks for."""


@dataclass(frozen=True)
class HubPages:
    """Where the hub's own pages are, and who the console is to it.

    Attributes:
        url: Of the hub's pages as browsers reach it, like "/hub/".
        client_id: The console's for OAuth.
        prefix: Of the console's addresses.
        callback: Where the hub sends browsers back to.
    """

    url: str
    client_id: str
    prefix: str
    callback: str
    sessions: Sessions = field(default_factory=Sessions)

    @property
    def is_secure(self) -> bool:
        """Whether the hub says that browsers come by https."""
        return self.url.startswith("https://")

    @property
    def has_own_host(self) -> bool:
        """Whether no other page has the console's host name: the hub has subdomains."""
        return self.callback.startswith("https://")

    @property
    def cookie_path(self) -> str:
        """Where the console's cookies are sent."""
        return "/" if self.has_own_host else self.prefix

    def cookie_named(self, name: str) -> str:
        """Return a cookie's full name.

        On a host of its own it is one that no page of another host can plant. It must
        be for the whole host then, so it is not for a host that servers share.
        """
        return f"__Host-{name}" if self.has_own_host else name

    @property
    def content_policy(self) -> str:
        """What the page may do; its form may end at the hub, to log in again."""
        hub = urlsplit(self.url)
        also = f" {hub.scheme}://{hub.netloc}" if hub.netloc else ""
        return CONTENT_POLICY.replace("form-action 'self'", f"form-action 'self'{also}")


def router(pages: HubPages) -> APIRouter:
    """Return the page's routes."""
    made = APIRouter(prefix=pages.prefix.rstrip("/"), include_in_schema=False)

    @made.get("/")
    async def show(request: Request) -> Response:
        """Show one's tokens; log in first if need be."""
        console = console_of(request)
        try:
            session, who = await _logged_in(pages, console, request)
            if session is None or who is None:
                return _to_hub(pages, request)
            return await _page(pages, console, session, who)
        except LedgerError as error:
            return _sorry(pages, error)

    @made.get("/oauth_callback")
    async def come_back(request: Request, code: str = "", state: str = "") -> Response:
        """Begin a session for a browser that the hub sends back."""
        attempt = Attempt.of(request.cookies.get(pages.cookie_named(LOGIN), ""))
        if not code or not attempt.fits(state):
            return _sorry(pages, NotAllowed("The login did not work. Try it again."))
        try:
            hub = console_of(request).hub
            token = await hub.token_for(
                code, attempt.verifier, pages.client_id, pages.callback
            )
            who = await hub.identify(token)
        except LedgerError as error:
            return _sorry(pages, error)
        answer = RedirectResponse(pages.prefix, 303)
        name = pages.sessions.begin(token, time.monotonic(), who.name if who else "")
        _keep(answer, request, pages, name=SESSION, value=name, seconds=SESSION_S)
        answer.delete_cookie(
            pages.cookie_named(LOGIN), path=pages.cookie_path, secure=pages.is_secure
        )
        return answer

    @made.post("/redeem")
    async def redeem(request: Request) -> Response:
        """Redeem a voucher that was typed into the page's form."""
        return await _sent(pages, request, _redeem)

    @made.post("/extend")
    async def extend(request: Request) -> Response:
        """Take more time for a server that is about to stop."""
        return await _sent(pages, request, _extend)

    @made.get("/style.css")
    async def style() -> Response:
        """How the page looks."""
        return FileResponse(
            FOLDER / "style.css", headers={"Cache-Control": "max-age=3600"}
        )

    return made


async def _sent(pages: HubPages, request: Request, do: Deed) -> Response:
    """Do what a form of the page asks for, and show the page again."""
    console = console_of(request)
    try:
        session, who = await _logged_in(pages, console, request)
        form = parse_qs((await request.body()).decode(errors="replace"))
        sent = {name: values[0] for name, values in form.items()}
        if session is None or who is None:
            return RedirectResponse(pages.prefix, 303)
        if not hmac.compare_digest(
            session.form_key.encode(), sent.get("form_key", "").encode()
        ):
            raise NotAllowed("This form is not of this page. Open it again.")
        await do(console, session, who, sent)
    except LedgerError as error:
        return _sorry(pages, error)
    return RedirectResponse(pages.prefix, 303)


async def _logged_in(
    pages: HubPages, console: Console, request: Request
) -> tuple[Session | None, Identity | None]:
    """Return the browser's session and whose it is; None, None: it must log in.

    Raises:
        HubSilent: The hub does not say whose it is.
        NotAllowed: It is not one of a user who may see their tokens, or the page was
            not opened but fetched by a script.
    """
    if request.headers.get("sec-fetch-mode", "navigate") != "navigate":
        raise NotAllowed("This page is for people. Programs use the REST API.")
    name = request.cookies.get(pages.cookie_named(SESSION), "")
    session = pages.sessions.find(name, time.monotonic())
    if session is None:
        return None, None
    who = await console.hub.identify(session.token)
    if who is None:
        pages.sessions.end(name)
        return None, None
    check_identity(who)
    if not access.may_act_for_self(who):
        raise NotAllowed("You may not see tokens here. Ask an admin of this site.")
    return session, who


def _to_hub(pages: HubPages, request: Request) -> Response:
    """Send a browser to the hub to log in."""
    attempt = Attempt.new()
    query = attempt.query(pages.client_id, pages.callback)
    answer = RedirectResponse(f"{pages.url}api/oauth2/authorize?{query}", 303)
    _keep(answer, request, pages, name=LOGIN, value=attempt.cookie, seconds=LOGIN_S)
    return answer


def _keep(
    answer: Response,
    request: Request,
    pages: HubPages,
    *,
    name: str,
    value: str,
    seconds: int,
) -> None:
    """Set a cookie for this page only; no script reads it, no other site posts it."""
    is_https = request.headers.get("x-forwarded-proto", "").startswith("https")
    answer.set_cookie(
        pages.cookie_named(name),
        value,
        max_age=seconds,
        path=pages.cookie_path,
        httponly=True,
        samesite="lax",  # the hub's redirect back must carry it
        secure=is_https or pages.is_secure,
    )


async def _redeem(
    console: Console, session: Session, who: Identity, sent: dict[str, str]
) -> None:
    """Redeem a code, and have the outcome shown on the next page."""
    try:
        got = await console.ledger.vouchers.redeem(
            who.name, sent.get("code", ""), key=sent.get("key", ""), at=console.now()
        )
    except LedgerError as error:
        session.notice, session.is_good_news = str(error), False
    else:
        session.notice = f"Redeemed: {text_of(got.amount)}."
        session.is_good_news = True


async def _extend(
    console: Console, session: Session, who: Identity, sent: dict[str, str]
) -> None:
    """Take an extension, and have the outcome shown on the next page."""
    if not access.may_extend_own_servers(who):
        raise NotAllowed("You may not extend servers here. Ask an admin of this site.")
    number = sent.get("extension", "")
    # More digits than any extension has: int() would refuse thousands of them.
    extension = int(number) if number.isdecimal() and len(number) < DIGITS_MAX else 0
    try:
        done = await console.extending.extend(
            who.name,
            sent.get("server", ""),
            sent.get("lease", ""),
            extension,
            at=console.now(),
        )
    except LedgerError as error:
        session.notice, session.is_good_news = str(error), False
    else:
        session.notice, session.is_good_news = done.notice.sentence, True


async def _warnings(console: Console, who: Identity) -> Sequence[Notice]:
    """Return what is told of a user's servers; nothing if that cannot be read."""
    if not access.may_extend_own_servers(who):
        return ()
    try:
        return await console.extending.notices(who.name)
    except StewardSilent:
        return ()


async def _page(
    pages: HubPages, console: Console, session: Session, who: Identity
) -> Response:
    """Return the page of a user."""
    balance = await statements.own_balance(console, who)
    history = await console.ledger.statements.history(
        Kind.USER, who.name, limit=ENTRIES
    )
    notice, session.notice = session.notice, ""
    return _html(
        pages,
        "tokens.html",
        who=who,
        balance=balance,
        entries=history.items,
        warnings=await _warnings(console, who),
        words=WORDS,
        notice=notice,
        is_good_news=session.is_good_news,
        form_key=session.form_key,
        key=f"page-{secrets.token_hex(16)}",
    )


def _sorry(pages: HubPages, error: LedgerError) -> Response:
    """Return a page that says what went wrong."""
    return _html(pages, "sorry.html", error.http_status, sentence=str(error))


def _html(
    pages: HubPages, template: str, status: int = 200, **shown: Any
) -> HTMLResponse:
    text = _TEMPLATES.get_template(template).render(
        prefix=pages.prefix, hub=pages.url, **shown
    )
    return HTMLResponse(
        text, status, headers={"Content-Security-Policy": pages.content_policy}
    )
