"""Settings from the environment: read once, checked, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torchroom.ledger.amounts import parse_tokens
from torchroom.ledger.errors import BadInput
from torchroom.ledger.policy import Policy

MINUTE_S = 60
WARN_MINUTES_MAX = 7 * 24 * 60
PORT_MAX = 65535
SIMULATED_MAX = 32
CONSOLE_PORT = "TORCHROOM_CONSOLE_PORT"
SECRET_LENGTH_MIN = 32
LEDGER_URLS = ("sqlite:///", "postgresql://")
LEDGER_VARIABLES = (
    "TORCHROOM_DATA_DIR",
    "TORCHROOM_LEDGER_URL",
    "TORCHROOM_PRICES",
    "TORCHROOM_WELCOME_TOKENS",
    "TORCHROOM_HOLD_MINUTES",
    "TORCHROOM_WARN_MINUTES",
    "TORCHROOM_TOPUP_SECRET_FILE",
)
"""What the console needs of the hub's environment; it inherits nothing else."""


class SettingError(Exception):
    """A variable has a value that cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """What hub, console and command line must agree on about tokens.

    Attributes:
        url: The ledger's database; may contain a password.
        prices_file: Read once, into an empty price table; None: the packaged example.
        policy: How much is held, when people are warned, what a new user gets.
        topup_secret: Shared with whoever sends top-ups; "": none are taken.
    """

    url: str = field(repr=False)
    prices_file: Path | None
    policy: Policy
    topup_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What .env.example documents, as far as the hub reads it."""

    data_dir: Path
    user_image: str
    network: str
    hub_id: str
    gpu_driver: str
    n_simulated: int
    proxy_api_url: str
    welcome_dir: Path
    home_policy: str
    console_port: int
    ledger: LedgerSettings


def read(env: Mapping[str, str]) -> Settings:
    """Return the hub's settings.

    Raises:
        SettingError: A value is missing or not one of those allowed.
    """
    return Settings(
        data_dir=data_dir(env),
        user_image=_required(env, "TORCHROOM_USER_IMAGE"),
        network=env.get("TORCHROOM_NETWORK") or "torchroom_servers",
        hub_id=env.get("TORCHROOM_HUB_ID") or "torchroom",
        gpu_driver=one_of(env, "TORCHROOM_GPU_DRIVER", ("auto", "nvidia", "cdi")),
        n_simulated=within(env, "TORCHROOM_SIMULATED_GPUS", 0, 0, SIMULATED_MAX),
        proxy_api_url=env.get("TORCHROOM_PROXY_API_URL") or "http://proxy:8001",
        welcome_dir=Path(env.get("TORCHROOM_WELCOME_DIR") or "/srv/torchroom/welcome"),
        home_policy=one_of(env, "TORCHROOM_HOME_POLICY", ("keep", "delete")),
        console_port=read_console_port(env),
        ledger=read_ledger(env),
    )


def read_ledger(env: Mapping[str, str]) -> LedgerSettings:
    """Return the ledger's settings; needs none of the hub's others.

    Raises:
        SettingError: As `read`.
    """
    return LedgerSettings(
        url=_ledger_url(env),
        prices_file=_file(env, "TORCHROOM_PRICES"),
        policy=Policy(
            hold_s=MINUTE_S * _hold_minutes(env),
            warn_s=_minutes(env, "TORCHROOM_WARN_MINUTES", "30,10,2"),
            welcome=_tokens(env, "TORCHROOM_WELCOME_TOKENS", "100"),
        ),
        topup_secret=_secret(env, "TORCHROOM_TOPUP_SECRET_FILE"),
    )


def read_console_port(env: Mapping[str, str]) -> int:
    """Return the port that the console listens on.

    Raises:
        SettingError: As `read`.
    """
    return within(env, CONSOLE_PORT, 8082, 1, PORT_MAX)


def of_console(env: Mapping[str, str]) -> dict[str, str]:
    """Return what of the environment the console gets."""
    return {name: env[name] for name in LEDGER_VARIABLES if env.get(name)}


def data_dir(env: Mapping[str, str]) -> Path:
    """Return the folder of what the hub and its services keep."""
    return Path(env.get("TORCHROOM_DATA_DIR") or ".")


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise SettingError(f"{name} is not set; start the hub with make up.")
    return value


def of_hub(env: Mapping[str, str], name: str, started: str) -> str:
    """Return a variable that the hub sets for a service that it starts.

    Args:
        env: The service's environment.
        name: Of the variable.
        started: What the hub starts, in words.

    Raises:
        SettingError: It is not set.
    """
    value = env.get(name, "")
    if not value:
        raise SettingError(f"{name} is not set. The hub starts {started} and sets it.")
    return value


def one_of(env: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """Return a variable's value, the first of those allowed if it is not set.

    Raises:
        SettingError: It is none of them.
    """
    value = env.get(name) or allowed[0]
    if value not in allowed:
        raise SettingError(f"{name} is {value!r}; it must be {' or '.join(allowed)}.")
    return value


def within(
    env: Mapping[str, str], name: str, default: int, least: int, most: int
) -> int:
    """Return a variable's whole number, the default if it is not set.

    Raises:
        SettingError: It is not one from `least` to `most`.
    """
    value = env.get(name) or str(default)
    # As many digits as the most: int() refuses thousands of them with its own words.
    if not (value.isdecimal() and len(value) <= len(str(most))) or not (
        least <= int(value) <= most
    ):
        raise SettingError(
            f"{name} is {value!r}; it must be a whole number from {least} to {most}."
        )
    return int(value)


def _hold_minutes(env: Mapping[str, str]) -> int:
    least, most = 2, 24 * 60  # a hold outlives the time that a server needs to stop
    return within(env, "TORCHROOM_HOLD_MINUTES", 10, least, most)


def _minutes(env: Mapping[str, str], name: str, default: str) -> tuple[int, ...]:
    value = env.get(name) or default
    try:
        found = {
            within({name: part.strip()}, name, 0, 1, WARN_MINUTES_MAX)
            for part in value.split(",")
        }
    except SettingError as error:
        raise SettingError(
            f"{name} is {value!r}; it must be whole minutes from 1 to "
            f"{WARN_MINUTES_MAX} with commas between them, like {default}."
        ) from error
    return tuple(minutes * MINUTE_S for minutes in sorted(found, reverse=True))


def _tokens(env: Mapping[str, str], name: str, default: str) -> int:
    try:
        return parse_tokens(env.get(name) or default)
    except BadInput as error:
        raise SettingError(f"{name}: {error}") from error


def _ledger_url(env: Mapping[str, str]) -> str:
    name = "TORCHROOM_LEDGER_URL"
    url = env.get(name) or f"sqlite:///{data_dir(env) / 'ledger.sqlite'}"
    if not url.startswith(LEDGER_URLS):  # not shown: it may contain a password
        raise SettingError(f"{name} must begin with {' or '.join(LEDGER_URLS)}.")
    return url


def _file(env: Mapping[str, str], name: str) -> Path | None:
    value = env.get(name)
    if not value:
        return None
    if not Path(value).is_file():
        raise SettingError(f"{name} is {value!r}; there is no such file.")
    return Path(value)


def read_text(name: str, path: str) -> str:
    """Return the text of the file that a variable names, without space around it.

    Raises:
        SettingError: It cannot be read, or is not plain text.
    """
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain text"
        raise SettingError(f"{name}: {path} cannot be read: {reason}.") from error


def _secret(env: Mapping[str, str], name: str) -> str:
    value = env.get(name)
    if not value:
        return ""
    secret = read_text(name, value)
    if secret and len(secret) < SECRET_LENGTH_MIN:
        raise SettingError(
            f"{name}: the secret in {value} is shorter than {SECRET_LENGTH_MIN} "
            "characters. Make a new one: openssl rand -hex 32"
        )
    return secret
