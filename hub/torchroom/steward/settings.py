"""What the steward is told by the hub that starts it, and by its own environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from torchroom.settings import (
    PORT_MAX,
    SECRET_LENGTH_MIN,
    SettingError,
    data_dir,
    of_hub,
    read_text,
)
from torchroom.steward import reading
from torchroom.steward.mail import MailSettings, Safety, is_address
from torchroom.steward.rules import Policy
from torchroom.steward.webhook import WebhookSettings

_STARTED = "the steward as a service"
EXAMPLE = Path(__file__).with_name("policy.example.toml")

_SCHEMES = {
    "smtps": (Safety.TLS, 465),
    "smtp": (Safety.STARTTLS, 587),
    "smtp+insecure": (Safety.NONE, 25),
}


@dataclass(frozen=True, slots=True)
class StewardSettings:
    """All that the steward needs to know.

    Attributes:
        hub_api_url: Where the hub answers.
        hub_token: The steward's own token there.
        data_dir: Where its file is.
        policy: Who is stopped when.
        mail: None: no mail is sent.
        webhook: None: none is called.
    """

    hub_api_url: str
    hub_token: str = field(repr=False)
    data_dir: Path
    policy: Policy
    mail: MailSettings | None
    webhook: WebhookSettings | None


def read(env: Mapping[str, str]) -> StewardSettings:
    """Return the settings.

    Raises:
        SettingError: A value is missing or cannot be used.
    """
    return StewardSettings(
        hub_api_url=of_hub(env, "JUPYTERHUB_API_URL", _STARTED),
        hub_token=of_hub(env, "JUPYTERHUB_API_TOKEN", _STARTED),
        data_dir=data_dir(env),
        policy=policy(env),
        mail=_mail(env),
        webhook=_webhook(env),
    )


def policy(env: Mapping[str, str]) -> Policy:
    """Return the site's policy.

    Raises:
        SettingError: The file cannot be read, or says something that cannot be used.
    """
    path = Path(env.get("TORCHROOM_STEWARD_POLICY") or EXAMPLE)
    found = policy_of(path)
    return replace(found, is_dry_run=_switch(env, "TORCHROOM_STEWARD_DRY_RUN"))


def policy_of(path: Path) -> Policy:
    """Return the policy of a file.

    Raises:
        SettingError: As `policy`.
    """
    try:
        return reading.read(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingError(f"The policy {path} cannot be read: {why}.") from error
    except reading.PolicyError as error:
        raise SettingError(f"The policy {path} cannot be used. {error}") from error


def _switch(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name) or "0"
    if value not in {"0", "1"}:
        raise SettingError(f"{name} is {value!r}; it must be 0 or 1.")
    return value == "1"


def _mail(env: Mapping[str, str]) -> MailSettings | None:
    name = "TORCHROOM_SMTP_URL"
    value = env.get(name)
    if not value:
        return None
    usage = (  # the value is not shown: it may contain a password
        f"{name} must be like smtp://USER:PASSWORD@mail.example.org:587 (STARTTLS), "
        "smtps:// (TLS from the start), or smtp+insecure:// without a password."
    )
    try:
        url = urlsplit(value)
        safety, port = _SCHEMES[url.scheme]
        port = url.port or port
    except (ValueError, KeyError) as error:
        raise SettingError(usage) from error
    is_bare = url.path in {"", "/"} and not url.query and not url.fragment
    if not url.hostname or not is_bare or bool(url.username) != bool(url.password):
        raise SettingError(usage)
    if safety is Safety.NONE and url.password:
        raise SettingError(usage)
    user, password = unquote(url.username or ""), unquote(url.password or "")
    if not (user + password).isascii():
        raise SettingError(
            f"{name}: user and password must be ASCII, mail servers take no other. "
            "Give the account another password."
        )
    return MailSettings(
        host=url.hostname,
        port=port,
        safety=safety,
        sender=_sender(env),
        domain=_domain(env),
        user=user,
        password=password,
        ca_file=_ca_file(env),
    )


def _sender(env: Mapping[str, str]) -> str:
    value = env.get("TORCHROOM_MAIL_FROM", "")
    if not is_address(value):
        raise SettingError(
            f"TORCHROOM_MAIL_FROM is {value!r}; it must be an address like "
            "torchroom@example.org, which mail to users comes from."
        )
    return value


def _domain(env: Mapping[str, str]) -> str:
    value = env.get("TORCHROOM_MAIL_DOMAIN", "")
    if value and not is_address(f"name@{value}"):
        raise SettingError(
            f"TORCHROOM_MAIL_DOMAIN is {value!r}; it must be one like example.org."
        )
    return value


def _ca_file(env: Mapping[str, str]) -> Path | None:
    path = env.get("TORCHROOM_SMTP_CA_FILE")
    return Path(path) if path and read_text("TORCHROOM_SMTP_CA_FILE", path) else None


def _webhook(env: Mapping[str, str]) -> WebhookSettings | None:
    name = "TORCHROOM_WEBHOOK_URL"
    value = env.get(name)
    if not value:
        return None
    try:
        url = urlsplit(value)
        is_good = url.scheme in {"http", "https"} and bool(url.hostname)
        is_good = is_good and (url.port is None or 0 < url.port <= PORT_MAX)
    except ValueError:
        is_good = False
    if not is_good:  # not shown: it may contain a password
        raise SettingError(f"{name} must begin with https:// (or http://) and a host.")
    file = "TORCHROOM_WEBHOOK_SECRET_FILE"
    path = env.get(file)
    secret = read_text(file, path) if path else ""
    if len(secret) < SECRET_LENGTH_MIN:
        raise SettingError(
            f"{file} must name a file with the secret that signs what is sent to "
            f"{name}, at least {SECRET_LENGTH_MIN} characters. Make one: "
            "openssl rand -hex 32"
        )
    return WebhookSettings(value, secret)
