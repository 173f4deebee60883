"""How each row of the table in docs/roles.md is tried.

`{me}` is who asks (for services and nobody: bob), `{other}` another member of the
course, alice; for alice nobody asks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from testbed.console import ConsoleProcess
from testbed.role_hub import COURSE, GPU, RoleHub

IN_A_YEAR = "2099-01-01T00:00:00Z"
Make = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """What a test has: a hub and a console with the roles of this hub."""

    hub: RoleHub
    console: ConsoleProcess


Prepare = Callable[[Place, str], Make]


def nothing(_place: Place, _user: str) -> Make:
    """No preparation."""
    return {}


def runs(place: Place, user: str) -> Make:
    """The user's server runs."""
    place.hub.run(user)
    return {}


def is_halted(place: Place, user: str) -> Make:
    """The user's server does not run."""
    place.hub.halt(user)
    return {}


def has_tokens(place: Place, _user: str) -> Make:
    """The course has tokens to hand out, alice has some of them and some of her own."""
    root = place.hub.keys["root"]
    place.console.post(f"/courses/{COURSE}/budget", root, {"microtokens": 10})
    give = {"user": "alice", "microtokens": 2}
    place.console.post(f"/courses/{COURSE}/hand-outs", root, give)
    place.console.post("/users/alice/grants", root, {"microtokens": 2})
    return {}


def voucher(place: Place, _user: str) -> Make:
    """There is a voucher; its code goes into the body."""
    root = place.hub.keys["root"]
    body = {"microtokens": 1, "expires_at": IN_A_YEAR}
    [made] = place.console.post("/vouchers", root, body)["items"]
    return {"code": made["code"], "voucher": made["id"]}


def allowance(place: Place, _user: str) -> Make:
    """There is an allowance; its id goes into the path."""
    root = place.hub.keys["root"]
    made = place.console.post(f"/courses/{COURSE}/allowances", root, ALLOWANCE)
    return {"allowance": made["id"]}


def is_no_member(place: Place, _user: str) -> Make:
    """Nobody called "newcomer" is there."""
    place.hub.root("DELETE", "/users/newcomer")
    return {}


def is_member(place: Place, _user: str) -> Make:
    """Somebody called "newcomer" is there."""
    place.hub.root("POST", "/users/newcomer")
    return {}


@dataclass(frozen=True)
class Operation:
    """A request for which one needs a scope.

    Attributes:
        where: "hub", "console", or "server" for the page of somebody's server.
        on: Whose: "me" or "other".
        prepare: Makes it possible, if it is allowed; what it returns is put into path
            and body.
        done: What who may gets beside 2xx.
        refused: What who may not gets.
        finds: Allowed is who reads this in the answer; others may get one without it.
    """

    method: str
    path: str
    where: str = "hub"
    body: dict[str, Any] | None = None
    on: str = "me"
    prepare: Prepare = nothing
    done: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset({401, 403, 404})
    finds: str = field(default="")


def hub(method: str, path: str, **more: Any) -> Operation:
    """A request to JupyterHub's REST API."""
    return Operation(method, path, **more)


def console(method: str, path: str, **more: Any) -> Operation:
    """A request to the tokens' REST API."""
    return Operation(method, path, "console", **more)


ALLOWANCE = {
    "period": "weekly",
    "mode": "add",
    "microtokens": 10**12,
    "time_zone": "UTC",
}
AMOUNT = {"microtokens": 1}
NOW = datetime.now(UTC).isoformat()
MY_SERVER, SERVER = "/users/{me}/server", "/users/{other}/server"
OF_COURSE = f"/courses/{COURSE}"

OPERATIONS: dict[str, Operation] = {
    # ---- oneself
    "see who one is and what one may do": hub("GET", "/user"),
    "see one's own account and servers": hub("GET", "/users/{me}", finds='"servers"'),
    "start one's own server": hub("POST", MY_SERVER, prepare=is_halted),
    "stop one's own server": hub("DELETE", MY_SERVER, prepare=runs),
    "open one's own server": Operation(
        "GET", "{me}", "server", prepare=runs, refused=frozenset({302, 403})
    ),
    "say that one's own server is in use": hub(
        "POST", "/users/{me}/activity", body={"last_activity": NOW}
    ),
    "make a token for one's own programs": hub("POST", "/users/{me}/tokens", body={}),
    "see one's own balance": console("GET", "/me"),
    "see one's own history and use of tokens": console("GET", "/me/history"),
    "redeem a voucher": console(
        "POST", "/me/vouchers", body={"code": "{code}"}, prepare=voucher
    ),
    "see prices": console("GET", "/prices"),
    "see when one's own server will stop": console("GET", "/me/servers/-/notice"),
    "take more time for one's own server": console(
        "POST",
        "/me/servers/-/extension",
        body={"lease": "ls_1", "extension": 1},
        done=frozenset({409}),  # there is nothing to extend
    ),
    # ---- somebody else of the same course
    "see the name of somebody of one's course": hub("GET", "/users/{other}"),
    "see the list of a course's members": hub("GET", f"/groups/{COURSE}"),
    "see a member in the list of users": hub(
        "GET", "/users?limit=200", finds='"name": "alice"'
    ),
    "see whether a member's server runs": hub(
        "GET", SERVER, prepare=runs, on="other", finds='"ready"'
    ),
    "open a member's server": Operation(
        "GET",
        "{other}",
        "server",
        prepare=runs,
        on="other",
        refused=frozenset({302, 403}),
    ),
    "start a member's server": hub("POST", SERVER, prepare=is_halted, on="other"),
    "stop a member's server": hub("DELETE", SERVER, prepare=runs, on="other"),
    "make a token in a member's name": hub("POST", "/users/{other}/tokens", body={}),
    "put somebody into a course": hub(
        "POST", f"/groups/{COURSE}/users", body={"users": ["alice"]}
    ),
    "make somebody an instructor": hub(
        "POST", f"/groups/instructors-of-{COURSE}/users", body={"users": ["ivy"]}
    ),
    # ---- a course's tokens
    "see a course's budget": console("GET", OF_COURSE, prepare=has_tokens),
    "see what each student of a course has": console("GET", f"{OF_COURSE}/students"),
    "see a course's history and use": console("GET", f"{OF_COURSE}/usage"),
    "hand out a course's tokens": console(
        "POST",
        f"{OF_COURSE}/hand-outs",
        body={"user": "alice", **AMOUNT},
        prepare=has_tokens,
    ),
    "take back what was handed out": console(
        "POST",
        f"{OF_COURSE}/returns",
        body={"user": "alice", **AMOUNT},
        prepare=has_tokens,
    ),
    "give a course a budget": console("POST", f"{OF_COURSE}/budget", body=AMOUNT),
    "take a course's budget away": console(
        "POST", f"{OF_COURSE}/withdrawals", body=AMOUNT, prepare=has_tokens
    ),
    "make or change a course": console(
        "PUT", OF_COURSE, body={"title": "Machine learning", "student_cap": None}
    ),
    "see a course's allowances": console("GET", f"{OF_COURSE}/allowances"),
    "make an allowance": console("POST", f"{OF_COURSE}/allowances", body=ALLOWANCE),
    "end an allowance": console(
        "DELETE", f"{OF_COURSE}/allowances/{{allowance}}", prepare=allowance
    ),
    # ---- all tokens
    "see anybody's balance and history": console("GET", "/users/alice/history"),
    "grant tokens": console("POST", "/users/alice/grants", body=AMOUNT),
    "take tokens back": console(
        "POST", "/users/alice/take-backs", body=AMOUNT, prepare=has_tokens
    ),
    "see vouchers": console("GET", "/vouchers"),
    "make a voucher": console(
        "POST", "/vouchers", body={"expires_at": IN_A_YEAR, **AMOUNT}
    ),
    "withdraw a voucher": console("DELETE", "/vouchers/{voucher}", prepare=voucher),
    "set a price": console(
        "POST", "/prices", body={"key": "table", "microtokens_per_hour": 1}
    ),
    "see the use of the whole hub": console("GET", "/usage"),
    "see the ledger's sums": console("GET", "/ledger"),
    # ---- the machine
    "see who holds which GPU": hub("GET", "/gpus"),
    "take a GPU out of service": hub(
        "POST", f"/gpus/{GPU}", body={"state": "draining", "note": "loud fan"}
    ),
    "say why a server is stopped": hub(
        "POST",
        "/leases/ls_0000000000000000/ending",
        body={"reason": "max_age", "sentence": "It is old."},
        done=frozenset({404}),  # there is no such lease
        refused=frozenset({401, 403}),
    ),
    "see whom the steward warned and stopped": console("GET", "/steward/events"),
    "read the hub's metrics": hub("GET", "/metrics"),
    "see the proxy's routes": hub("GET", "/proxy"),
    "see versions and settings of the hub": hub("GET", "/info"),
    "add a user": hub("POST", "/users/newcomer", prepare=is_no_member),
    "remove a user": hub("DELETE", "/users/newcomer", prepare=is_member),
    "see whether the tokens' service is well": console("GET", "/health"),
}
