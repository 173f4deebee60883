"""Logging in at a real OpenID provider: who gets in, as what, and who does not."""

import base64
import copy
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from testbed.identity import IdentityProvider
from testbed.login_hub import STAFF, STUDENTS, TEACHERS, LoginHub, Visitor, said

Person = Callable[..., str]


def is_logged_in(visitor: Visitor, hub: LoginHub) -> bool:
    return visitor.home(hub).status_code == 200


def exists(hub: LoginHub, name: str) -> bool:
    return hub.ask(f"users/{name}", hub.key).ok


def refused(page: requests.Response, status: int, words: str) -> None:
    assert page.status_code == status, page.text
    assert words in said(page), page.text


# ----------------------------------------------------------------- who gets in, as what


def test_a_student_gets_in_and_is_in_the_course(hub: LoginHub, person: Person) -> None:
    name = person(STUDENTS)
    page = Visitor().log_in(hub, name)
    assert page.url == f"{hub.url}/hub/home"
    user = hub.user(name)
    assert (user["groups"], user["admin"]) == (["ml101"], False)


def test_a_teacher_is_in_the_course_and_teaches_it(
    hub: LoginHub, person: Person
) -> None:
    name = person(TEACHERS, "chess-club")
    Visitor().log_in(hub, name)
    user = hub.user(name)
    assert sorted(user["groups"]) == ["instructors-of-ml101", "ml101"]
    assert user["admin"] is False


def test_staff_are_admins(hub: LoginHub, person: Person) -> None:
    name = person(STAFF)
    Visitor().log_in(hub, name)
    user = hub.user(name)
    assert user["admin"] is True
    assert user["groups"] == ["hub:admins"]


def test_a_name_in_courses_toml_counts_as_well(
    hub: LoginHub, provider: IdentityProvider
) -> None:
    Visitor().log_in(hub, provider.account("nora"))
    assert hub.user("nora")["groups"] == ["ml101"]


def test_who_is_in_nothing_is_told_so_and_is_nobody_here(
    hub: LoginHub, person: Person
) -> None:
    name, visitor = person("chess-club"), Visitor()
    page = visitor.log_in(hub, name)
    refused(page, 403, f"You are logged in as {name}, and {name} is in no course")
    assert "Ask your instructor" in said(page)
    assert not is_logged_in(visitor, hub)
    assert not exists(hub, name)


def test_who_was_refused_can_use_another_account(hub: LoginHub, person: Person) -> None:
    """The provider asks again who it is; test_browser.py goes all the way."""
    visitor = Visitor()
    page = visitor.log_in(hub, person())
    assert 'href="/hub/oauth_login?another=1"' in page.text
    form = visitor.open(f"{hub.url}/hub/oauth_login?another=1")
    assert "School login" in form.text


def test_a_page_deep_inside_is_where_the_login_leads(
    hub: LoginHub, person: Person
) -> None:
    page = Visitor().log_in(hub, person(STUDENTS), "/hub/token")
    assert page.url == f"{hub.url}/hub/token"


# ------------------------------------------------------------------- PKCE, nonce, state


def test_every_login_uses_pkce_and_a_nonce_of_its_own(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    for _ in range(2):
        Visitor().log_in(hub, name)
    seen = provider.seen()
    assert all(row["code_challenge_method"] == "S256" for row in seen["authorize"])
    assert len({row["code_challenge"] for row in seen["authorize"]}) == 2
    assert len({row["nonce"] for row in seen["authorize"]}) == 2
    logins = [row for row in seen["token"] if row["grant_type"] != "refresh_token"]
    assert [row["has_verifier"] for row in logins] == [True, True]


def test_the_provider_takes_no_login_without_pkce(
    hub: LoginHub, provider: IdentityProvider
) -> None:
    """Or the test above would prove nothing."""
    asked = parse_qs(urlsplit(Visitor().start_login(hub)).query)
    del asked["code_challenge"], asked["code_challenge_method"]
    page = requests.get(
        f"{provider.issuer}/auth?{urlencode(asked, doseq=True)}",
        timeout=20,
        allow_redirects=False,
    )
    back = parse_qs(urlsplit(page.headers["Location"]).query)
    assert back["error"] == ["invalid_request"]


def packed(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


STATES = {
    "missing": None,
    "empty": "",
    "another": packed({"state_id": "0" * 32}),
    "without the id": packed({}),
    "null": packed({"state_id": None}),
    "a number": packed({"state_id": 1}),
    "a list": packed([1]),
    "a text": packed("text"),
    "deep": base64.urlsafe_b64encode(b"[" * 50_000).decode()[:8000],
    "no base64": "%%%",
    "not ASCII": "zuständig",
    "a NUL": "\x00",
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_login_with_a_wrong_state_is_refused(
    hub: LoginHub, person: Person, state: str | None
) -> None:
    visitor = Visitor()
    back = urlsplit(visitor.come_back(hub, person(STUDENTS)))
    query = {name: values[0] for name, values in parse_qs(back.query).items()}
    query.pop("state")
    if state is not None:
        query["state"] = state
    page = visitor.open(f"{hub.url}{back.path}?{urlencode(query)}")
    assert page.status_code == 400
    assert not is_logged_in(visitor, hub)


def test_a_login_begun_elsewhere_is_refused(hub: LoginHub, person: Person) -> None:
    """Whoever gets a victim to open this address would log them in as somebody else."""
    back = Visitor().come_back(hub, person(STUDENTS))
    victim = Visitor()
    refused(victim.open(back), 400, "begun in another browser")
    victim.start_login(hub)
    refused(victim.open(back), 400, "begun in another browser")
    assert not is_logged_in(victim, hub)


def test_an_answer_counts_once(hub: LoginHub, person: Person) -> None:
    visitor = Visitor()
    back = visitor.come_back(hub, person(STUDENTS))
    again = Visitor(copy.deepcopy(visitor.session))
    assert visitor.open(back).ok
    refused(again.open(back), 403, "did not finish this login")
    assert not is_logged_in(again, hub)


@pytest.mark.parametrize("code", ["rubbish", "x" * 4000, "ü", "a b", "%00"])
def test_a_made_up_code_is_refused(hub: LoginHub, code: str) -> None:
    visitor = Visitor()
    state = parse_qs(urlsplit(visitor.start_login(hub)).query)["state"][0]
    issuer = hub.environment["TORCHROOM_OAUTH_DISCOVERY_URL"].partition("/.well")[0]
    query = urlencode({"code": code, "state": state, "iss": issuer})
    page = visitor.open(f"{hub.url}/hub/oauth_callback?{query}")
    refused(page, 403, "did not finish this login")


def test_an_answer_in_another_providers_name_is_refused(
    hub: LoginHub, person: Person
) -> None:
    visitor = Visitor()
    back = visitor.come_back(hub, person(STUDENTS))
    parts = urlsplit(back)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    query["iss"] = "https://evil.example"
    page = visitor.open(f"{hub.url}{parts.path}?{urlencode(query)}")
    refused(page, 403, "could not be verified")


def test_who_says_no_at_the_provider_can_try_again(hub: LoginHub) -> None:
    visitor = Visitor()
    asked = parse_qs(urlsplit(visitor.start_login(hub)).query)
    issuer = hub.environment["TORCHROOM_OAUTH_DISCOVERY_URL"].partition("/.well")[0]
    told = {
        "error": "access_denied",
        "error_description": "Call 555 1234 to get your prize",
        "state": asked["state"][0],
        "iss": issuer,
    }
    page = visitor.open(f"{hub.url}/hub/oauth_callback?{urlencode(told)}")
    refused(page, 403, "did not finish this login")
    assert "555" not in page.text  # nobody writes on our pages by a link
    assert 'href="/hub/oauth_login"' in page.text


# ------------------------------------------------------------------------- the id_token

FORGED: dict[str, Any] = {
    "missing": "missing",
    "tampered": "tampered",
    "expired": "expired",
    "by another key": "other_key",
    "unsigned": "unsigned",
    "no token": "not_a_token",
    "for another client": {"claims": {"aud": "another"}},
    "for two clients": {"claims": {"aud": ["torchroom", "another"], "azp": "another"}},
    "by another issuer": {"claims": {"iss": "https://evil.example"}},
    "of another login": {"claims": {"nonce": "another"}},
    "without a nonce": {"claims": {"nonce": None}},
    "without an end": {"claims": {"exp": None}},
    "from the future": {"claims": {"iat": 4_000_000_000}},
    "another account's": {"claims": {"sub": "root"}},
    "a subject that is no text": {"claims": {"sub": 7}},
}


@pytest.mark.parametrize("how", FORGED.values(), ids=FORGED)
def test_an_id_token_that_proves_nothing_is_refused(
    hub: LoginHub, provider: IdentityProvider, person: Person, how: Any
) -> None:
    name, visitor = person(STUDENTS), Visitor()
    provider.behave(id_token=how)
    refused(visitor.log_in(hub, name), 403, "could not be verified")
    assert not is_logged_in(visitor, hub)
    assert not exists(hub, name)


def test_the_userinfo_must_be_of_the_same_account(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    provider.behave(userinfo={"sub": "root", "groups": [STAFF]})
    refused(Visitor().log_in(hub, name), 403, "could not be verified")


@pytest.mark.parametrize("answer", [[], "text", 7, True, None])
def test_userinfo_that_is_no_account_is_refused(
    hub: LoginHub, provider: IdentityProvider, person: Person, answer: Any
) -> None:
    name, visitor = person(STUDENTS), Visitor()
    provider.behave(userinfo=answer if answer is not None else "")
    page = visitor.log_in(hub, name)
    assert page.status_code in {403, 503}, page.text
    assert said(page)
    assert not is_logged_in(visitor, hub)


# --------------------------------------------------------------------------- the claims

NAMES: dict[str, Any] = {
    "missing": None,
    "empty": "",
    "a number": 7,
    "a list": ["ada"],
    "with a slash": "a/b",
    "with a space": "a b",
    "dots": "..",
    "not ASCII": "\uff41\uff44\uff41",
    "kelvin": "\u212aelvin",
    "long": "a" * 65,
    "a script": "<script>alert(1)</script>",
    "a line break": "a\nb",
}


@pytest.mark.parametrize("claim", NAMES.values(), ids=NAMES)
def test_an_account_without_a_usable_name_is_refused_with_a_sentence(
    hub: LoginHub, person: Person, claim: Any
) -> None:
    visitor = Visitor()
    page = visitor.log_in(hub, person(STUDENTS, preferred_username=claim))
    words = "'preferred_username' of your account"
    refused(page, 403, words if claim else "has no 'preferred_username'")
    assert (
        "<script>" not in page.text.partition('class="error"')[2].partition("</div>")[0]
    )
    assert not is_logged_in(visitor, hub)


GROUPS: dict[str, Any] = {
    "a dict": {STUDENTS: True},
    "a number": 7,
    "numbers": [1, 2],
    "objects": [{"name": STUDENTS}],
    "too many": [f"group-{n}" for n in range(5001)],
    "too long": ["g" * 1001],
}


@pytest.mark.parametrize("claim", GROUPS.values(), ids=GROUPS)
def test_groups_of_a_wrong_shape_let_nobody_in(
    hub: LoginHub, person: Person, claim: Any
) -> None:
    visitor = Visitor()
    page = visitor.log_in(hub, person(**{"groups": claim}))
    refused(page, 403, "'groups' of your account")
    assert not is_logged_in(visitor, hub)


def test_one_group_may_be_a_text(hub: LoginHub, person: Person) -> None:
    name = person(**{"groups": STUDENTS})
    assert Visitor().log_in(hub, name).ok
    assert hub.user(name)["groups"] == ["ml101"]


def test_a_thousand_groups_are_fine(hub: LoginHub, person: Person) -> None:
    name = person(STUDENTS, *(f"club-{n}" for n in range(1000)))
    assert Visitor().log_in(hub, name).ok
    assert hub.user(name)["groups"] == ["ml101"]


def test_no_groups_at_all_are_said_to_be_the_reason(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    provider.behave(drop=["groups"])
    refused(Visitor().log_in(hub, name), 403, "did not say which groups")


def test_groups_in_the_id_token_alone_count(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    provider.behave(groups_in="id_token")
    assert Visitor().log_in(hub, name).ok
    assert hub.user(name)["groups"] == ["ml101"]


# ------------------------------------------------------------------- names and accounts


def test_two_accounts_whose_names_differ_in_case_are_not_one_user(
    hub: LoginHub, person: Person
) -> None:
    first = person(STUDENTS)
    second = person(STUDENTS, STAFF, preferred_username=first.upper())
    assert Visitor().log_in(hub, first).ok
    visitor = Visitor()
    refused(
        visitor.log_in(hub, second), 403, f"name {first} belongs to another account"
    )
    assert not is_logged_in(visitor, hub)
    assert hub.user(first)["admin"] is False


def test_an_account_keeps_its_name_when_the_claim_changes(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    Visitor().log_in(hub, name)
    provider.account(name, STUDENTS, preferred_username=f"{name}-married")
    visitor = Visitor()
    assert visitor.log_in(hub, name).ok
    assert not exists(hub, f"{name}-married")


def test_a_name_that_is_given_to_the_next_person_does_not_open_the_firsts_files(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    Visitor().log_in(hub, name)
    provider.account(name, STUDENTS, preferred_username="gone")
    successor = person(STUDENTS, preferred_username=name)
    refused(Visitor().log_in(hub, successor), 403, "belongs to another account")
    # until an admin deletes the user
    hub.api(f"users/{name}", method="DELETE")
    assert Visitor().log_in(hub, successor).ok
    assert exists(hub, name)


def test_nobody_changes_the_name_of_an_account_on_the_hub(
    hub: LoginHub, person: Person
) -> None:
    """Whoever comes with the new name would have been let in to the other's things."""
    name, admin = person(STUDENTS), person(STAFF)
    for each in (name, admin):
        Visitor().log_in(hub, each)
    token = hub.token_of(admin)
    to = {"name": f"{name}-married"}
    answer = hub.ask(f"users/{name}", token, method="PATCH", json=to)
    assert answer.status_code == 400
    assert "identity provider" in answer.json()["message"]
    assert exists(hub, name)
    # the admin's page sends the name with everything else
    same = {"name": name, "admin": False}
    assert hub.ask(f"users/{name}", token, method="PATCH", json=same).ok


def test_a_name_that_courses_toml_lists_cannot_be_claimed_by_another_account(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """The name 'root' is an admin's, once that admin has logged in."""
    Visitor().log_in(hub, provider.account("root"))
    assert hub.user("root")["admin"] is True
    impostor = person(preferred_username="ROOT")
    refused(Visitor().log_in(hub, impostor), 403, "belongs to another account")


# ------------------------------------------------------------------------- out of order


@pytest.mark.parametrize("how", ["503", "hang"])
def test_a_provider_that_is_down_is_said_to_be(
    hub: LoginHub, provider: IdentityProvider, person: Person, how: str
) -> None:
    visitor = Visitor()
    back = visitor.come_back(hub, person(STUDENTS))
    provider.behave(down=how)
    refused(visitor.open(back), 503, "does not answer as it should")


@pytest.mark.parametrize(
    "wanted",
    ["//evil.example/", "https://evil.example/", "//[", "\\\\evil.example", "/\x00"],
)
def test_a_login_leads_nowhere_else(hub: LoginHub, person: Person, wanted: str) -> None:
    visitor, name = Visitor(), person(STUDENTS)
    form = visitor.open(f"{hub.url}/hub/oauth_login", params={"next": wanted})
    page = visitor.fill(form, name)
    assert page.url.startswith(hub.url + "/")


def test_logging_out_ends_at_the_provider(hub: LoginHub, person: Person) -> None:
    """In a room with shared machines the next one must not be the last one."""
    visitor = Visitor()
    visitor.log_in(hub, person(STUDENTS))
    page = visitor.open(f"{hub.url}/hub/logout", allow_redirects=False)
    assert "/session/end?client_id=torchroom" in page.headers["Location"]
    assert not is_logged_in(visitor, hub)
