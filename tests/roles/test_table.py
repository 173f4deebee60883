"""Each role can do exactly what the table in docs/roles.md says, cell by cell."""

import re
from pathlib import Path
from typing import Any

import pytest
import requests
from gpuspawner import window
from roles.operations import OPERATIONS, Operation, Place
from testbed.role_hub import COURSES
from torchroom import roles
from torchroom.console import scopes
from torchroom.membership import Membership, MembershipError, read

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "roles.md"
WHO = {
    "student": "bob",
    "instructor": "ivy",
    "other instructor": "otto",
    "admin": "adam",  # by his group; ada is one by name
    "server": "bob",
    "console": "bob",
    "steward": "bob",
    "nobody": "bob",
}
"""Column -> whose name stands for `{me}`."""
CELLS = {"yes": True, "": False}


def table() -> dict[str, dict[str, bool]]:
    """What the document says: row -> column -> whether it is allowed."""
    found: dict[str, dict[str, bool]] = {}
    columns: list[str] = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| to "):
            columns = cells[2:]
        elif columns and line.startswith("|") and not line.startswith("| ---"):
            assert len(cells) == len(columns) + 2, line
            assert cells[0] not in found, line
            found[cells[0]] = {
                column: CELLS[cell]
                for column, cell in zip(columns, cells[2:], strict=True)
            }
        else:
            columns = columns if line.startswith("|") else []
    return found


TABLE = table()


def token(place: Place, column: str) -> str | None:
    """What the one of this column sends."""
    match column:
        case "nobody":
            return None
        case "server":
            return place.hub.server_token("bob")
        case "console":
            return place.hub.keys["console"]
        case "steward":
            return place.hub.keys[roles.STEWARD]
        case _:
            return place.hub.token(WHO[column])


def ask(place: Place, operation: Operation, column: str) -> requests.Response:
    """Prepare and try."""
    sent = token(place, column)
    me, other = WHO[column], "alice"
    made = operation.prepare(place, other if operation.on == "other" else me)
    values = {"me": me, "other": other, **made}
    path = operation.path.format(**values)
    if operation.where == "server":
        page = place.hub.page(path)
        url = f"http://127.0.0.1:{page['port']}{page['path']}"
        headers = {} if sent is None else {"Authorization": f"token {sent}"}
        return requests.get(url, headers=headers, allow_redirects=False, timeout=20)
    body: dict[str, Any] | None = operation.body and {
        key: value.format(**values) if isinstance(value, str) else value
        for key, value in operation.body.items()
    }
    if operation.where == "console":
        return place.console.ask(operation.method, path, sent, json=body)
    return requests.request(
        operation.method,
        f"{place.hub.api_url}{path}",
        headers={} if sent is None else {"Authorization": f"token {sent}"},
        json=body,
        allow_redirects=False,
        timeout=30,
    )


@pytest.mark.parametrize("column", WHO)
@pytest.mark.parametrize("row", OPERATIONS)
def test_each_can_do_exactly_what_the_table_says(
    place: Place, row: str, column: str
) -> None:
    """Who may is answered with what they asked for, who may not with 401, 403, 404."""
    operation = OPERATIONS[row]
    answer = ask(place, operation, column)
    told = (answer.status_code, answer.text[:500])
    status = answer.status_code
    is_done = 200 <= status < 300 or status in operation.done
    if operation.finds:
        is_done = is_done and operation.finds in answer.text
    assert is_done == TABLE[row][column], told
    if not is_done and not (operation.finds and answer.ok):
        assert answer.status_code in operation.refused, told


@pytest.mark.parametrize("row", ["grant tokens", "take a GPU out of service"])
def test_an_admin_by_name_can_do_the_same(place: Place, row: str) -> None:
    """As with the local login, whose admin is in no group."""
    group, gone = f"/groups/{roles.ADMINS_GROUP}", {"users": ["ada"]}
    place.hub.root("DELETE", f"{group}/users", json=gone)
    assert place.hub.root("GET", group).json()["users"] == ["adam"]
    operation, sent = OPERATIONS[row], place.hub.token("ada")
    if operation.where == "console":
        sent_to = place.console.ask(
            operation.method, operation.path, sent, json=operation.body
        )
    else:
        sent_to = requests.request(
            operation.method,
            place.hub.api_url + operation.path,
            headers={"Authorization": f"token {sent}"},
            json=operation.body,
            timeout=20,
        )
    assert sent_to.ok, sent_to.text


def test_the_table_and_what_is_tried_are_the_same() -> None:
    """No row is only said, and no row is only tried."""
    assert list(TABLE) == list(OPERATIONS)
    assert {tuple(row) for row in TABLE.values()} == {tuple(WHO)}


def test_the_hub_printed_no_traceback(place: Place) -> None:
    """Also not for what was refused."""
    assert "Traceback" not in place.hub.log()
    assert "Traceback" not in place.console.log()


def shown() -> dict[str, set[str]]:
    """Column -> the scopes of the rows that it may do."""
    found: dict[str, set[str]] = {column: set() for column in WHO}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        for column in WHO:
            if TABLE.get(cells[0], {}).get(column):
                found[column] |= set(re.findall(r"`([a-z:-]+)`", cells[1]))
    return found


def test_no_role_has_a_scope_that_none_of_its_rows_shows() -> None:
    """Or it could do what nobody tries."""
    granted = roles.grant(
        read(COURSES), window.SCOPES, services=[scopes.SERVICE, roles.STEWARD]
    )
    held = {role["name"]: role["scopes"] for role in granted.load_roles}
    has: dict[str, list[str]] = {
        "student": [x for x in granted.extra_user_scopes if x != scopes.ACCESS],
        "instructor": held["instructor-of-ml101"],
        "admin": [*held["gpu-admin"], *held["token-admin"]],
        "server": granted.server_token_scopes,
        "console": held["token-service"],
        "steward": held["steward"],
    }
    rows = shown()
    for column, given in has.items():
        assert {scope.partition("!")[0] for scope in given} <= rows[column], column
    assert f"`{scopes.ACCESS}`" in DOCUMENT.read_text(encoding="utf-8")
    assert granted.custom_scopes.keys() <= set().union(*rows.values())


def test_no_service_and_no_instructor_may_administrate() -> None:
    """Whatever courses there are; JupyterHub takes `admin:users` for everything."""
    granted = roles.grant(
        read(COURSES), window.SCOPES, admins=["ada"], services=["torchroom", "steward"]
    )
    held = {scope for role in granted.load_roles for scope in role["scopes"]}
    assert not {scope for scope in held if scope.startswith("admin")}
    assert not held & {"tokens", "groups", "users", "servers", "access:servers"}
    for role in granted.load_roles:
        if role["name"].startswith("instructor-of-"):
            course = role["name"].removeprefix("instructor-of-")
            assert all(scope.endswith(f"!group={course}") for scope in role["scopes"])
            assert role["groups"] == [f"instructors-of-{course}"]
            assert "users" not in role


def test_who_is_in_the_group_of_admins_is_said_by_the_admins_of_courses_toml() -> None:
    """No course can be called like it."""
    membership = read(COURSES)
    assert roles.groups_of(membership.standing("ada")) == [roles.ADMINS_GROUP]
    assert roles.groups_of(membership.standing("ivy")) == [
        "ml101",
        "instructors-of-ml101",
    ]
    with pytest.raises(MembershipError, match="a name is 1 to 40 of"):
        read(f'[course."{roles.ADMINS_GROUP}"]')


def test_a_hub_without_the_steward_has_no_role_for_it() -> None:
    """JupyterHub would not start."""
    granted = roles.grant(Membership(), window.SCOPES)
    assert [role["name"] for role in granted.load_roles] == [
        "gpu-admin",
        "token-admin",
        "token-service",
    ]
