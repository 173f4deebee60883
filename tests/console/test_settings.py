"""What the console reads from its environment, and what it says of what it cannot."""

import pytest
from torchroom.console.settings import ConsoleSettings, read
from torchroom.settings import SettingError

FROM_HUB = {
    "JUPYTERHUB_API_URL": "http://hub:8081/hub/api",
    "JUPYTERHUB_API_TOKEN": "secret-of-the-console",
}


def of(**more: str) -> ConsoleSettings:
    return read(FROM_HUB | more)


def test_the_hub_says_where_it_and_the_console_are() -> None:
    """Behind a network: on all interfaces; the prefix has both slashes."""
    here = of(
        JUPYTERHUB_SERVICE_PREFIX="/base/services/torchroom",
        JUPYTERHUB_SERVICE_URL="http://hub:8082",
    )
    assert (here.host, here.port) == ("0.0.0.0", 8082)
    assert here.prefix == "/base/services/torchroom/"
    assert here.hub_api_url == "http://hub:8081/hub/api"


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9000", "http://localhost:9000"])
def test_a_console_on_the_hubs_machine_is_reached_from_there_only(url: str) -> None:
    """On the loopback."""
    here = of(JUPYTERHUB_SERVICE_URL=url)
    assert here.host == "127.0.0.1"
    assert here.port == (9000 if url else 8082)
    assert here.prefix == "/services/torchroom/"


def test_a_port_of_its_own_wins() -> None:
    """For a proxy between the two."""
    here = of(JUPYTERHUB_SERVICE_URL="http://hub:1", TORCHROOM_CONSOLE_PORT="8090")
    assert here.port == 8090


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "9" * 5000, "8082 "])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    """With a sentence."""
    with pytest.raises(SettingError, match="from 1 to 65535"):
        of(TORCHROOM_CONSOLE_PORT=port)


@pytest.mark.parametrize("missing", FROM_HUB)
def test_without_a_hub_there_is_no_console(missing: str) -> None:
    """It says that the hub starts it."""
    with pytest.raises(SettingError, match=f"{missing} is not set. The hub starts"):
        read({name: value for name, value in FROM_HUB.items() if name != missing})


def test_secrets_are_not_shown() -> None:
    """Not when the settings are printed by mistake."""
    assert "secret-of-the-console" not in repr(of())


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "/hub/"),
        ({"JUPYTERHUB_BASE_URL": "/"}, "/hub/"),
        ({"JUPYTERHUB_BASE_URL": "/lab/"}, "/lab/hub/"),
        (
            {"JUPYTERHUB_HOST": "https://hub.example.org"},
            "https://hub.example.org/hub/",
        ),
    ],
)
def test_browsers_find_the_hub_where_it_says(env: dict[str, str], url: str) -> None:
    """Under a prefix, or on a host of its own."""
    assert of(**env).hub_pages_url == url


def test_the_hub_sends_browsers_back_where_it_says() -> None:
    """Letter by letter, for it compares; with subdomains to a host of the console's."""
    assert of().callback_url == "/services/torchroom/oauth_callback"
    url = "https://torchroom--service.hub.edu/services/torchroom/oauth_callback"
    assert of(JUPYTERHUB_OAUTH_CALLBACK_URL=url).callback_url == url
