"""What the console is told by the hub that starts it, and by its own environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from torchroom.console.scopes import SERVICE
from torchroom.settings import (
    CONSOLE_PORT,
    LedgerSettings,
    data_dir,
    of_hub,
    read_console_port,
    read_ledger,
)

_STARTED = f"the console as its service {SERVICE!r}"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """All that the console needs to know.

    Attributes:
        hub_api_url: Where the hub answers.
        hub_token: The console's own token there.
        prefix: Of every address it serves; begins and ends with a slash.
        host: What it listens on.
        port: See host.
        hub_pages_url: Where browsers find the hub's pages; ends with a slash.
        callback_url: Where the hub sends browsers back to; with subdomains it has the
            console's own host in it.
        client_id: The console's, when users log in to its page.
        ledger: See LedgerSettings.
        data_dir: Where the steward's file is.
    """

    hub_api_url: str
    hub_token: str = field(repr=False)
    prefix: str
    host: str
    port: int
    hub_pages_url: str
    callback_url: str
    client_id: str
    ledger: LedgerSettings
    data_dir: Path


def read(env: Mapping[str, str]) -> ConsoleSettings:
    """Return the settings.

    A console that the hub's proxy reaches over a network listens on all interfaces of
    its machine or container, otherwise on the loopback only.

    Raises:
        SettingError: A value is missing or cannot be used.
    """
    address = urlsplit(env.get("JUPYTERHUB_SERVICE_URL", ""))
    is_local = (address.hostname or "localhost") in _LOOPBACK
    return ConsoleSettings(
        hub_api_url=of_hub(env, "JUPYTERHUB_API_URL", _STARTED),
        hub_token=of_hub(env, "JUPYTERHUB_API_TOKEN", _STARTED),
        prefix=_prefix(env.get("JUPYTERHUB_SERVICE_PREFIX", "")),
        host="127.0.0.1" if is_local else "0.0.0.0",  # noqa: S104 - see above
        port=_port(env, address.netloc),
        hub_pages_url=_hub_pages(env),
        callback_url=_callback(env),
        client_id=env.get("JUPYTERHUB_CLIENT_ID") or f"service-{SERVICE}",
        ledger=read_ledger(env),
        data_dir=data_dir(env),
    )


def _prefix(value: str) -> str:
    middle = (value or f"/services/{SERVICE}").strip("/")
    return f"/{middle}/" if middle else "/"


def _hub_pages(env: Mapping[str, str]) -> str:
    base = env.get("JUPYTERHUB_BASE_URL", "").strip("/")
    host = env.get("JUPYTERHUB_HOST", "").rstrip("/")
    return f"{host}/{base}/hub/" if base else f"{host}/hub/"


def _callback(env: Mapping[str, str]) -> str:
    prefix = _prefix(env.get("JUPYTERHUB_SERVICE_PREFIX", ""))
    # As the hub knows it: it compares the two letter by letter.
    return env.get("JUPYTERHUB_OAUTH_CALLBACK_URL") or f"{prefix}oauth_callback"


def _port(env: Mapping[str, str], netloc: str) -> int:
    of_service = netloc.rpartition(":")[2] if ":" in netloc else ""
    return read_console_port({CONSOLE_PORT: env.get(CONSOLE_PORT) or of_service})
