"""What becomes of somebody who is logged in when the provider says something new.

The hub of these tests asks again after one second. Each test waits for what must
happen, not for a time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testbed.bare_hub import free_port
from testbed.engine import wait_until
from testbed.identity import IdentityProvider, identity_provider
from testbed.login_hub import (
    STAFF,
    STUDENTS,
    TEACHERS,
    LoginHub,
    Visitor,
    login_hub,
    said,
)
from torchroom import roles

Person = Callable[..., str]
WITHIN_S = 40
OFFLINE_S = 3


def until(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what=what, within_s=WITHIN_S)


def enters(hub: LoginHub, name: str) -> Visitor:
    visitor = Visitor()
    page = visitor.log_in(hub, name)
    assert page.ok, page.text
    return visitor


def groups_are(hub: LoginHub, visitor: Visitor, name: str, *groups: str) -> bool:
    """Use the hub, which makes it ask, and look at what it knows now."""
    visitor.home(hub)
    return sorted(hub.user(name)["groups"]) == sorted(groups)


def start_server(hub: LoginHub, visitor: Visitor, name: str) -> str:
    """Start somebody's server; returns its address."""
    hub.api(f"users/{name}/server", method="POST")
    until(lambda: bool(hub.user(name)["servers"]), "the server starts")
    until(lambda: hub.user(name)["servers"][""]["ready"], "the server answers")
    url = f"{hub.url}/user/{name}/"
    assert visitor.open(url).text == f"the server of {name} for {name}"
    return url


def is_running(hub: LoginHub, name: str) -> bool:
    return bool(hub.user(name)["servers"])


# ----------------------------------------------------------------------- groups, admins


def test_a_new_course_is_there_without_a_new_login(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    visitor = enters(hub, name)
    provider.account(name, STUDENTS, "bio7")
    until(lambda: groups_are(hub, visitor, name, "ml101", "bio7"), "in both courses")
    provider.account(name, "bio7")
    until(lambda: groups_are(hub, visitor, name, "bio7"), "in the second only")


def test_who_teaches_no_more_is_no_instructor_any_more(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(TEACHERS)
    visitor = enters(hub, name)
    provider.account(name, STUDENTS)
    until(lambda: groups_are(hub, visitor, name, "ml101"), "a student")
    provider.account(name, TEACHERS)
    both = ("ml101", "instructors-of-ml101")
    until(lambda: groups_are(hub, visitor, name, *both), "an instructor again")


def test_who_is_staff_no_more_is_no_admin_any_more(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS, STAFF)
    visitor = enters(hub, name)
    assert visitor.open(f"{hub.url}/hub/admin").status_code == 200
    provider.account(name, STUDENTS)

    def is_admin() -> bool:
        visitor.home(hub)
        return bool(hub.user(name)["admin"])

    until(lambda: not is_admin(), "no admin")
    assert "admin" not in hub.user(name)["roles"]
    assert visitor.open(f"{hub.url}/hub/admin").status_code == 403
    provider.account(name, STUDENTS, STAFF)
    until(is_admin, "an admin again")


# ----------------------------------------------------------------------- who is removed


def test_a_removed_student_loses_everything_at_once(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """Cookie, API tokens, groups, the server, and the way back in."""
    name = person(STUDENTS)
    visitor = enters(hub, name)
    token = hub.token_of(name)
    url = start_server(hub, visitor, name)
    provider.account(name, "chess-club")

    until(lambda: visitor.home(hub).status_code == 302, "the page is closed")
    assert hub.ask("user", token).status_code == 403
    user = hub.user(name)
    assert (user["groups"], user["admin"], user["auth_state"]) == ([], False, None)
    until(lambda: not is_running(hub, name), "the server is stopped")
    assert "the server of" not in visitor.open(url).text
    again = visitor.log_in(hub, name)
    assert again.status_code == 403
    assert "is in no course of this hub" in said(again)


def test_a_server_that_starts_at_that_moment_is_stopped_too(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    visitor = enters(hub, name)
    hold = hub.folder / f"home-{name}" / "hold"
    hold.parent.mkdir()
    hold.touch()
    hub.api(f"users/{name}/server", method="POST")
    provider.account(name)
    until(lambda: visitor.home(hub).status_code == 302, "the page is closed")
    assert hub.user(name)["servers"][""]["pending"] == "spawn"
    hold.unlink()
    until(lambda: not is_running(hub, name), "the server is stopped")


def test_a_server_that_asks_the_hub_nothing_is_stopped_too(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """Its owner can keep it from reporting, and opens no page of the hub any more."""
    name = person(STUDENTS)
    visitor = enters(hub, name)
    token = hub.token_of(name)
    start_server(hub, visitor, name)
    provider.account(name, "chess-club")
    until(lambda: not is_running(hub, name), "the server is stopped")
    assert hub.user(name)["groups"] == []
    assert hub.ask("user", token).status_code == 403


def test_whose_server_asks_the_hub_nothing_is_what_the_provider_says_all_the_same(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(TEACHERS, STAFF)
    visitor = enters(hub, name)
    start_server(hub, visitor, name)
    provider.account(name, STUDENTS)
    until(lambda: hub.user(name)["groups"] == ["ml101"], "a student")
    assert hub.user(name)["admin"] is False
    assert is_running(hub, name)
    hub.api(f"users/{name}/server", method="DELETE")


def test_the_removed_read_why(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """Whatever page they open next leads to the login, which tells them."""
    name = person(STUDENTS)
    visitor = enters(hub, name)
    provider.account(name)
    words = f"{name} is in no course of this hub"
    until(lambda: words in said(visitor.open(f"{hub.url}/hub/home")), "it is said")


def test_an_api_token_notices_the_removal_itself(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """A running server's own token does: it reports every five minutes."""
    name = person(STUDENTS)
    enters(hub, name)
    token = hub.token_of(name)
    assert hub.ask("user", token).ok
    provider.account(name)
    until(lambda: hub.ask("user", token).status_code == 403, "the token is refused")
    assert hub.user(name)["groups"] == []


def test_a_student_removed_from_courses_toml_loses_access_without_a_restart(
    hub: LoginHub, provider: IdentityProvider
) -> None:
    visitor = enters(hub, provider.account("nora"))
    before = hub.courses_file.read_text()
    hub.courses_file.write_text(before.replace('["nora"]', "[]"))
    try:
        until(lambda: visitor.home(hub).status_code == 302, "the page is closed")
        assert hub.user("nora")["groups"] == []
    finally:
        hub.courses_file.write_text(before)
    until(lambda: Visitor().log_in(hub, "nora").ok, "in again")


def test_a_course_that_is_new_in_courses_toml_has_instructors_at_once(
    hub: LoginHub, person: Person
) -> None:
    """With the scopes of that course alone, and only as long as they instruct it."""
    name = person(STUDENTS)
    visitor = enters(hub, name)
    token = hub.token_of(name)
    before = hub.courses_file.read_text()
    groups = ("chem", "instructors-of-chem", "ml101")

    def of_chem() -> set[str]:
        scopes = hub.ask("user", token).json()["scopes"]
        return {scope for scope in scopes if scope.endswith("!group=chem")}

    hub.courses_file.write_text(f'{before}\n[course.chem]\ninstructors = ["{name}"]\n')
    try:
        until(lambda: groups_are(hub, visitor, name, *groups), "they instruct it")
        granted = {*roles.OF_CLASS, "custom:tokens:course"}
        names = {"read:users:name", "read:groups:name"}  # a part of those
        assert of_chem() == {f"{scope}!group=chem" for scope in granted | names}
        # somebody else who comes to instruct it gets the same role
        colleague = person(STUDENTS)
        hub.courses_file.write_text(
            f'{before}\n[course.chem]\ninstructors = ["{colleague}"]\n'
        )
        enters(hub, colleague)
        assert "instructors-of-chem" in hub.user(colleague)["groups"]
        until(lambda: groups_are(hub, visitor, name, "ml101"), "they do no more")
        assert not of_chem()
    finally:
        hub.courses_file.write_text(before)


def test_a_broken_courses_toml_changes_nothing(hub: LoginHub, person: Person) -> None:
    name = person(STUDENTS)
    visitor = enters(hub, name)
    before = hub.courses_file.read_text()
    hub.courses_file.write_text("[course.ml101\n")
    try:
        until(lambda: visitor.home(hub).ok and "is not TOML" in hub.log(), "it is said")
        assert visitor.home(hub).status_code == 200
        enters(hub, name)
    finally:
        hub.courses_file.write_text(before)


def test_when_the_provider_stops_sending_groups_access_ends_but_servers_go_on(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """It may be a mistake of its admin, and would end every training of a class."""
    name = person(STUDENTS)
    visitor = enters(hub, name)
    url = start_server(hub, visitor, name)
    provider.behave(drop=["groups"])
    # the running server, too, lets its owner in no more
    until(
        lambda: "the server of" not in visitor.open(url, allow_redirects=False).text,
        "the server's page is closed",
    )
    assert is_running(hub, name)
    provider.reset()
    page = visitor.log_in(hub, name)
    assert page.ok
    assert visitor.open(url).text == f"the server of {name} for {name}"
    hub.api(f"users/{name}/server", method="DELETE")


def test_an_admin_cannot_start_a_server_for_somebody_removed(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name, admin = person(STUDENTS), person(STAFF)
    enters(hub, name)
    enters(hub, admin)
    key = hub.token_of(admin)
    provider.account(name)
    answer = hub.ask(f"users/{name}/server", key, method="POST")
    assert answer.status_code == 403
    assert "is in no course" in answer.json()["message"]
    assert not is_running(hub, name)


# --------------------------------------------------------------- tokens of the provider


def test_an_access_token_that_is_over_is_renewed(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    provider.behave(access_ttl=3)
    visitor = enters(hub, name)

    def renewals() -> int:
        assert visitor.home(hub).status_code == 200
        kinds = [row["grant_type"] for row in provider.seen()["token"]]
        return kinds.count("refresh_token")

    until(lambda: renewals() >= 2, "renewed twice")
    provider.account(name, "bio7")
    until(lambda: groups_are(hub, visitor, name, "bio7"), "the other course")


def test_requests_that_come_at_once_renew_it_once(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """The provider takes a refresh token once; a second use ends the whole session."""
    name = person(STUDENTS)
    provider.behave(access_ttl=3)
    visitor = enters(hub, name)
    token = hub.token_of(name)

    def burst(_: int) -> int:
        return hub.ask("user", token).status_code

    def renewed() -> bool:
        with ThreadPoolExecutor(12) as pool:
            assert set(pool.map(burst, range(24))) == {200}
        kinds = [row["grant_type"] for row in provider.seen()["token"]]
        return kinds.count("refresh_token") >= 2

    until(renewed, "renewed twice")
    assert provider.seen()["token_errors"] == []
    assert visitor.home(hub).status_code == 200


@pytest.mark.parametrize("clock", ["time.time", "lambda: -time.monotonic()"])
def test_what_a_slow_request_saves_is_not_asked_with(
    tmp_path: Path, clock: str
) -> None:
    """JupyterHub saves the answer at the end of each request that waited for it.

    Which one is older does not hang on the machine's clock: it may be set back.
    """
    port = free_port()
    more = f"""
import asyncio, time
from torchroom.auth.authenticator import OidcAuthenticator
from traitlets import default

class SlowlySaved(OidcAuthenticator):
    @default("clock")
    def _clock(self):
        return {clock}

    @default("reconcile_auth_state_hook")
    def _slow(self):
        at_once = self._default_reconcile()
        async def slow(login, model, before):
            found = at_once(login, model, before)
            await asyncio.sleep(3)
            return found
        return slow

c.JupyterHub.authenticator_class = SlowlySaved
c.OidcAuthenticator.auth_refresh_age = 1
"""
    with (
        identity_provider(tmp_path, f"http://127.0.0.1:{port}") as provider,
        login_hub(tmp_path, provider, port=port, more=more) as hub,
    ):
        provider.behave(access_ttl=2)
        name = provider.account("ida", STUDENTS)
        enters(hub, name)
        token = hub.token_of(name)

        def is_renewed_often() -> bool:
            hub.ask("user", token)
            kinds = [row["grant_type"] for row in provider.seen()["token"]]
            return kinds.count("refresh_token") >= 4

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(until, is_renewed_often, "renewed") for _ in range(4)]
            for each in asking:
                each.result()
        assert provider.seen()["token_errors"] == []


def test_a_refresh_token_that_came_once_only_is_kept_over_a_new_login(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """Google sends it at somebody's first login."""
    name = person(STUDENTS)
    enters(hub, name)
    provider.behave(refresh_tokens=False, access_ttl=3)
    visitor = enters(hub, name)

    def is_renewed() -> bool:
        assert visitor.home(hub).status_code == 200
        kinds = [row["grant_type"] for row in provider.seen()["token"]]
        return "refresh_token" in kinds

    until(is_renewed, "renewed")


def test_groups_that_are_in_the_id_token_alone_are_renewed_too(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    provider.behave(groups_in="id_token")
    visitor = enters(hub, name)
    provider.account(name, STUDENTS, "bio7")
    until(lambda: groups_are(hub, visitor, name, "ml101", "bio7"), "in both courses")
    provider.account(name)
    until(lambda: visitor.home(hub).status_code == 302, "the page is closed")


@pytest.mark.parametrize("how", ["tampered", "expired", "other_key", "unsigned"])
def test_a_renewal_with_a_forged_id_token_gives_nothing(
    hub: LoginHub, provider: IdentityProvider, person: Person, how: str
) -> None:
    name = person(STUDENTS)
    provider.behave(access_ttl=3)
    visitor = enters(hub, name)
    provider.behave(id_token=how)
    until(lambda: visitor.home(hub).status_code == 302, "to the login")
    provider.account(name, STUDENTS, STAFF)
    assert visitor.home(hub).status_code == 302
    assert hub.user(name)["admin"] is False
    provider.reset()
    until(lambda: visitor.home(hub).status_code == 200, "it is asked again")


def test_the_account_of_another_at_refresh_gives_nothing(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    visitor = enters(hub, name)
    provider.behave(userinfo={"sub": "another", "groups": [STAFF]})
    until(lambda: visitor.home(hub).status_code == 302, "to the login")
    assert hub.user(name)["admin"] is False


def test_who_has_no_session_at_the_provider_any_more_logs_in_again(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """The cookie leads to the login; a running server goes on meanwhile."""
    name = person(STUDENTS)
    visitor = enters(hub, name)
    token = hub.token_of(name)
    url = start_server(hub, visitor, name)
    provider.forget(name)
    until(lambda: visitor.home(hub).status_code == 302, "to the login")
    assert hub.ask("user", token).ok
    assert is_running(hub, name)
    assert visitor.log_in(hub, name).ok
    assert visitor.open(url).ok
    hub.api(f"users/{name}/server", method="DELETE")


def rights(hub: LoginHub, token: str, name: str) -> tuple[bool, list[str]]:
    """What somebody is once the hub was asked with their token."""
    assert hub.ask("user", token).ok
    user = hub.user(name)
    return user["admin"], sorted(user["groups"])


@pytest.mark.parametrize("how", ["forget", "remove"])
def test_a_refused_refresh_token_leaves_a_token_no_power_and_no_new_server(
    hub: LoginHub, provider: IdentityProvider, person: Person, how: str
) -> None:
    """A deleted admin's token is an admin's no more; what runs goes on."""
    name = person(TEACHERS, STAFF)
    visitor = enters(hub, name)
    token = hub.token_of(name)
    assert rights(hub, token, name) == (
        True,
        ["hub:admins", "instructors-of-ml101", "ml101"],
    )
    start_server(hub, visitor, name)
    getattr(provider, how)(name)
    until(lambda: rights(hub, token, name) == (False, ["ml101"]), "no power")
    assert "admin" not in hub.user(name)["roles"]
    assert is_running(hub, name)
    provider.behave(down="503")  # what it said last counts, also while it is down
    words = f"What {name} is could not be asked"
    n_before = hub.log().count(words)
    until(
        lambda: hub.ask("user", token).ok and hub.log().count(words) > n_before + 1,
        "asked again",
    )
    assert rights(hub, token, name) == (False, ["ml101"])
    provider.reset()
    hub.api(f"users/{name}/server", method="DELETE")
    until(lambda: not is_running(hub, name), "the server is stopped")
    answer = hub.ask(f"users/{name}/server", token, method="POST")
    assert answer.status_code == 403
    assert "log in again" in answer.json()["message"].lower()
    assert not is_running(hub, name)
    provider.account(name, TEACHERS, STAFF)
    assert visitor.log_in(hub, name, "/hub/oauth_login").ok
    assert rights(hub, token, name)[0] is True
    until(lambda: is_running(hub, name), "the login leads to a new server")
    until(lambda: hub.user(name)["servers"][""]["ready"], "the server answers")
    hub.api(f"users/{name}/server", method="DELETE")


def test_an_admin_starts_no_server_for_whose_session_is_over(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name, admin = person(STUDENTS), person(STAFF)
    enters(hub, name)
    enters(hub, admin)
    key = hub.token_of(admin)
    provider.forget(name)
    answer = hub.ask(f"users/{name}/server", key, method="POST")
    assert answer.status_code == 403
    assert "log in again" in answer.json()["message"].lower()


def test_an_access_token_that_is_over_without_another_counts_for_a_while(
    tmp_path: Path,
) -> None:
    """Power and new servers end before the rest: a training goes on over night."""
    port = free_port()
    more = """
c.OidcAuthenticator.auth_refresh_age = 1
c.OidcAuthenticator.lapsed_s = 6
"""
    with (
        identity_provider(tmp_path, f"http://127.0.0.1:{port}") as provider,
        login_hub(tmp_path, provider, port=port, more=more) as hub,
    ):
        provider.behave(refresh_tokens=False, access_ttl=2)
        name = provider.account("hedy", TEACHERS, STAFF)
        visitor = enters(hub, name)
        token = hub.token_of(name)
        words = "there is no refresh token"
        until(lambda: hub.ask("user", token).ok and words in hub.log(), "it is over")
        until(lambda: rights(hub, token, name) == (False, ["ml101"]), "no power")
        answer = hub.ask(f"users/{name}/server", token, method="POST")
        assert answer.status_code == 403
        assert "log in again" in answer.json()["message"].lower()
        assert hub.ask("user", token).ok
        provider.behave(access_ttl=600)
        assert visitor.log_in(hub, name, "/hub/oauth_login").ok
        assert rights(hub, token, name)[0] is True
        assert "Traceback" not in hub.log()


def test_a_deleted_account_is_out(
    hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    visitor = enters(hub, name)
    provider.remove(name)
    until(lambda: visitor.home(hub).status_code == 302, "to the login")
    assert "School login" in visitor.open(f"{hub.url}/hub/home").text


# ------------------------------------------------------------- when it cannot be known


@pytest.mark.parametrize("how", ["503", "hang"])
def test_while_the_provider_is_down_the_last_answer_counts(
    hub: LoginHub, provider: IdentityProvider, person: Person, how: str
) -> None:
    name = person(TEACHERS)
    visitor = enters(hub, name)
    token = hub.token_of(name)
    provider.behave(down=how)
    words = f"What {name} is could not be asked"
    until(lambda: visitor.home(hub).ok and words in hub.log(), "it was asked")
    assert visitor.home(hub).status_code == 200
    assert hub.ask("user", token).ok
    assert "instructors-of-ml101" in hub.user(name)["groups"]


@pytest.fixture(scope="module")
def impatient(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LoginHub, IdentityProvider]]:
    """A hub where an answer counts for three seconds only, and of one school only."""
    folder: Path = tmp_path_factory.mktemp("impatient")
    port = free_port()
    more = f"""
c.OidcAuthenticator.auth_refresh_age = 1
c.OidcAuthenticator.timeout_s = 2
c.OidcAuthenticator.offline_s = {OFFLINE_S}
c.OidcAuthenticator.required_claims = {{"tid": ["school"]}}
"""
    with (
        identity_provider(folder, f"http://127.0.0.1:{port}") as provider,
        login_hub(folder, provider, port=port, more=more) as hub,
    ):
        yield hub, provider


def test_when_it_is_down_for_too_long_nobody_gets_further(
    impatient: tuple[LoginHub, IdentityProvider],
) -> None:
    hub, provider = impatient
    name = provider.account("dora", STUDENTS, tid="school")
    visitor = enters(hub, name)
    token = hub.token_of(name)
    provider.behave(down="503")
    until(lambda: hub.ask("user", token).status_code == 403, "the token is refused")
    assert visitor.home(hub).status_code == 302
    provider.reset()
    until(lambda: hub.ask("user", token).ok, "the token counts again")
    assert visitor.home(hub).status_code == 200


def test_without_a_session_at_the_provider_a_token_ends_after_that_time(
    impatient: tuple[LoginHub, IdentityProvider],
) -> None:
    hub, provider = impatient
    name = provider.account("emil", STUDENTS, tid="school")
    visitor = enters(hub, name)
    token = hub.token_of(name)
    provider.forget(name)
    until(lambda: hub.ask("user", token).status_code == 403, "the token is refused")
    assert visitor.log_in(hub, name).ok
    assert hub.ask("user", token).ok
    assert "Traceback" not in hub.log()


def test_a_school_that_vanished_is_none(
    impatient: tuple[LoginHub, IdentityProvider],
) -> None:
    """The userinfo had it at the login: that it has it no more says something."""
    hub, provider = impatient
    provider.reset()
    name = provider.account("gus", STUDENTS, tid="school")
    provider.behave(userinfo={"tid": "school"})
    visitor = enters(hub, name)
    until(lambda: visitor.home(hub).status_code == 200, "it counts")
    provider.behave(userinfo=None)
    words = "takes no accounts like yours (its 'tid' is another)"
    until(
        lambda: visitor.home(hub).status_code == 302 and words in hub.log(),
        "to the login",
    )


@pytest.mark.parametrize("school", [None, "another", ["school"]])
def test_another_schools_accounts_are_refused(
    impatient: tuple[LoginHub, IdentityProvider], school: object
) -> None:
    hub, provider = impatient
    provider.reset()
    page = Visitor().log_in(hub, provider.account("fred", STUDENTS, tid=school))
    assert page.status_code == 403
    assert "takes no accounts like yours" in said(page)


# ---------------------------------------------------------------- no userinfo at all


def test_a_provider_whose_id_token_says_it_all(
    tmp_path: Path,
) -> None:
    """As the preset for Microsoft has it: every refresh is a new id_token."""
    port = free_port()
    more = """
c.OidcAuthenticator.auth_refresh_age = 1
c.OidcAuthenticator.userdata_url = ""
"""
    with (
        identity_provider(tmp_path, f"http://127.0.0.1:{port}") as provider,
        login_hub(tmp_path, provider, port=port, more=more) as hub,
    ):
        name = provider.account("greta", STUDENTS)
        visitor = enters(hub, name)
        assert hub.user(name)["groups"] == ["ml101"]
        provider.account(name, "bio7")
        until(lambda: groups_are(hub, visitor, name, "bio7"), "the other course")
        provider.account(name)
        until(lambda: visitor.home(hub).status_code == 302, "the page is closed")
        assert "Traceback" not in hub.log()
