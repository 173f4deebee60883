"""A class that logs in at the same moment; bench/logins.py has 200 in a minute."""

from testbed.identity import IdentityProvider
from testbed.login_hub import STUDENTS, LoginHub
from testbed.logins import log_in_all

N = 30


def test_a_class_logs_in_at_once_without_an_error(
    hub: LoginHub, provider: IdentityProvider
) -> None:
    names = [provider.account(f"classmate{n}", STUDENTS) for n in range(N)]
    logins = log_in_all(hub, names, over_s=0)
    assert [login.error for login in logins if login.error] == []
    assert all(hub.user(name)["groups"] == ["ml101"] for name in names)
    assert len(provider.seen()["token"]) >= N
