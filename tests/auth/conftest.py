"""A real identity provider and a real hub, shared by the tests of this folder."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from testbed.bare_hub import free_port
from testbed.identity import IdentityProvider, identity_provider
from testbed.login_hub import LoginHub, login_hub

FAST = """
c.OidcAuthenticator.auth_refresh_age = 1
c.OidcAuthenticator.timeout_s = 5
"""
"""Asks for groups again after a second, not after five minutes, and waits less long."""


@pytest.fixture(scope="session")
def hub_port() -> int:
    """Where the shared hub is; the provider must know it before."""
    return free_port()


@pytest.fixture(scope="session")
def shared_provider(
    hub_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IdentityProvider]:
    """The provider, whatever a test has made of it."""
    folder = tmp_path_factory.mktemp("provider")
    with identity_provider(folder, f"http://127.0.0.1:{hub_port}") as running:
        yield running


@pytest.fixture
def provider(shared_provider: IdentityProvider) -> Iterator[IdentityProvider]:
    """The provider; it behaves well at the beginning."""
    shared_provider.reset()
    yield shared_provider
    shared_provider.reset()


@pytest.fixture(scope="session")
def shared_hub(
    hub_port: int,
    shared_provider: IdentityProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LoginHub]:
    """A running hub whose people log in at the provider."""
    folder = tmp_path_factory.mktemp("hub")
    with login_hub(folder, shared_provider, port=hub_port, more=FAST) as running:
        yield running


@pytest.fixture
def hub(shared_hub: LoginHub, provider: IdentityProvider) -> Iterator[LoginHub]:
    """The hub; whatever a test does to it, it must not print a traceback.

    No server is left for the next test: the hub asks the provider about its owner each
    second, and what it is told would count as that test's.
    """
    before = len(shared_hub.log())
    yield shared_hub
    printed = shared_hub.log()[before:]
    # one that is stopped while it starts prints where it was
    shared_hub.stop_servers()
    assert "Traceback" not in printed


_numbers = count(1)


@pytest.fixture
def person(provider: IdentityProvider) -> Callable[..., str]:
    """Makes accounts with names of their own: ``person("ml101-students")``."""

    def make(*groups: str, **claims: object) -> str:
        return provider.account(f"person{next(_numbers)}", *groups, **claims)

    return make
