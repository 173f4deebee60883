"""Settings from the environment: read once, checked, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class SettingError(Exception):
    """A variable has a value that cannot be used; the text says which and why."""


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


def read(env: Mapping[str, str]) -> Settings:
    """Return the settings.

    Raises:
        SettingError: A value is missing or not one of those allowed.
    """
    return Settings(
        data_dir=Path(env.get("TORCHROOM_DATA_DIR", ".")),
        user_image=_required(env, "TORCHROOM_USER_IMAGE"),
        network=env.get("TORCHROOM_NETWORK", "torchroom-servers"),
        hub_id=env.get("TORCHROOM_HUB_ID", "torchroom"),
        gpu_driver=_one_of(env, "TORCHROOM_GPU_DRIVER", ("auto", "nvidia", "cdi")),
        n_simulated=_count(env, "TORCHROOM_SIMULATED_GPUS"),
        proxy_api_url=env.get("TORCHROOM_PROXY_API_URL", "http://proxy:8001"),
        welcome_dir=Path(env.get("TORCHROOM_WELCOME_DIR", "/srv/torchroom/welcome")),
        home_policy=_one_of(env, "TORCHROOM_HOME_POLICY", ("keep", "delete")),
    )


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise SettingError(f"{name} is not set; start the hub with make up.")
    return value


def _one_of(env: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = env.get(name) or allowed[0]
    if value not in allowed:
        raise SettingError(f"{name} is {value!r}; it must be {' or '.join(allowed)}.")
    return value


def _count(env: Mapping[str, str], name: str) -> int:
    value = env.get(name) or "0"
    if not value.isdecimal():
        raise SettingError(f"{name} is {value!r}; it must be a whole number.")
    return int(value)
