"""Settings and the local login of the application around the hub."""

import asyncio
import json
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gpuspawner.spawner import GPUDockerSpawner
from torchroom import login, metering, pages, settings
from torchroom.ledger.database import migrate
from torchroom.ledger.errors import BadInput, Unavailable
from torchroom.ledger.meter import LedgerMeter
from torchroom.ledger.model import MICRO
from torchroom.ledger.policy import Policy


def test_passwords_are_generated_once_and_kept_private(tmp_path: Path) -> None:
    """A second call returns the same; nobody else can read the file."""
    first = login.local_login(tmp_path)
    assert login.local_login(tmp_path) == first
    path = tmp_path / login.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first.user_password) >= 12
    assert len(first.admin_password) >= 32  # JupyterHub's own minimum


@pytest.mark.parametrize("text", ["", "nonsense", "[]", json.dumps({"a": 1})])
def test_a_damaged_password_file_is_not_replaced_silently(
    tmp_path: Path, text: str
) -> None:
    """It says what to do; nobody's password changes behind their back."""
    (tmp_path / login.FILE).write_text(text)
    with pytest.raises(login.LoginFileError, match="Delete it and restart"):
        login.local_login(tmp_path)
    assert (tmp_path / login.FILE).read_text() == text


def test_bad_settings_are_named() -> None:
    """Each error says which variable and what it may be."""
    with pytest.raises(settings.SettingError, match="TORCHROOM_USER_IMAGE is not set"):
        settings.read({})
    good = {"TORCHROOM_USER_IMAGE": "image"}
    assert settings.read(good).gpu_driver == "auto"
    with pytest.raises(settings.SettingError, match="auto or nvidia or cdi"):
        settings.read({**good, "TORCHROOM_GPU_DRIVER": "amd"})
    for wrong in ("-1", "many", "33", "9" * 5000):
        with pytest.raises(settings.SettingError, match="whole number from 0 to 32"):
            settings.read({**good, "TORCHROOM_SIMULATED_GPUS": wrong})


def test_an_empty_variable_is_not_set() -> None:
    """Compose hands on all it knows, set or not."""
    good = {"TORCHROOM_USER_IMAGE": "image"}
    names = ("DATA_DIR", "NETWORK", "HUB_ID", "PROXY_API_URL", "WELCOME_DIR")
    empty = {f"TORCHROOM_{name}": "" for name in (*names, "SIMULATED_GPUS")}
    assert settings.read(good | empty) == settings.read(good)


# --------------------------------------------------------------- settings of the ledger


def test_a_hub_without_settings_has_a_ledger_beside_its_database() -> None:
    """A file, the packaged prices, a few tokens for everybody, no top-ups."""
    found = settings.read_ledger({"TORCHROOM_DATA_DIR": "/srv/data"})
    assert found == settings.LedgerSettings(
        url="sqlite:////srv/data/ledger.sqlite",
        prices_file=None,
        policy=Policy(hold_s=600, warn_s=(1800, 600, 120), welcome=100 * MICRO),
        topup_secret="",
    )
    # What compose passes on of a variable that nobody set:
    empty = dict.fromkeys(settings.LEDGER_VARIABLES, "")
    empty["TORCHROOM_DATA_DIR"] = "/srv/data"
    assert settings.read_ledger(empty) == found


def test_settings_of_the_ledger_are_read(tmp_path: Path) -> None:
    """Amounts are exact, minutes become seconds, warnings are sorted."""
    prices, secret = tmp_path / "prices.toml", tmp_path / "secret"
    prices.touch()
    secret.write_text("s" * 64 + "\n")
    url = "postgresql://torchroom:password@db/torchroom"
    found = settings.read_ledger(
        {
            "TORCHROOM_LEDGER_URL": url,
            "TORCHROOM_PRICES": str(prices),
            "TORCHROOM_WELCOME_TOKENS": "0.000001",
            "TORCHROOM_HOLD_MINUTES": "2",
            "TORCHROOM_WARN_MINUTES": "1, 60,1",
            "TORCHROOM_TOPUP_SECRET_FILE": str(secret),
        }
    )
    policy = Policy(hold_s=120, warn_s=(3600, 60), welcome=1)
    assert found == settings.LedgerSettings(url, prices, policy, "s" * 64)
    assert "password" not in repr(found)
    assert "sss" not in repr(found)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TORCHROOM_LEDGER_URL", "mysql://u:secret@db/x", "must begin with sqlite:///"),
        ("TORCHROOM_LEDGER_URL", "/srv/ledger.sqlite", "must begin with"),
        ("TORCHROOM_PRICES", "/no/such/file", "no such file"),
        ("TORCHROOM_WELCOME_TOKENS", "-1", "not an amount"),
        ("TORCHROOM_WELCOME_TOKENS", "0.0000001", "not an amount"),
        ("TORCHROOM_WELCOME_TOKENS", "1e9", "not an amount"),
        ("TORCHROOM_WELCOME_TOKENS", "9999999999", "must be between"),
        ("TORCHROOM_HOLD_MINUTES", "1", "from 2 to 1440"),
        ("TORCHROOM_HOLD_MINUTES", "1441", "from 2 to 1440"),
        ("TORCHROOM_HOLD_MINUTES", "1.5", "whole number"),
        ("TORCHROOM_HOLD_MINUTES", "9" * 10_000, "whole number"),
        ("TORCHROOM_WARN_MINUTES", "30,,2", "with commas between"),
        ("TORCHROOM_WARN_MINUTES", "30;10", "with commas between"),
        ("TORCHROOM_WARN_MINUTES", "0", "with commas between"),
        ("TORCHROOM_TOPUP_SECRET_FILE", "/no/such/file", "No such file"),
        ("TORCHROOM_TOPUP_SECRET_FILE", "/", "cannot be read"),
    ],
)
def test_bad_settings_of_the_ledger_are_named(name: str, value: str, says: str) -> None:
    """Each error names the variable; none shows a database's password."""
    with pytest.raises(settings.SettingError, match=says) as raised:
        settings.read_ledger({name: value})
    assert name in str(raised.value)
    assert "secret@" not in str(raised.value)


@pytest.mark.parametrize("text", ["hunter2", "ü" * 40, "x" * 31])
def test_a_weak_secret_for_top_ups_is_refused(tmp_path: Path, text: str) -> None:
    """The sentence says how to make one, or that it is no text; never the secret."""
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(settings.SettingError, match=r"openssl|plain text") as raised:
        settings.read_ledger({"TORCHROOM_TOPUP_SECRET_FILE": str(path)})
    assert text not in str(raised.value)


def test_the_console_inherits_what_it_needs_and_nothing_else() -> None:
    """Not the hub's proxy token, not what was left empty."""
    hubs = {
        "TORCHROOM_USER_IMAGE": "image",
        "TORCHROOM_DATA_DIR": "/srv/data",
        "TORCHROOM_WELCOME_TOKENS": "5",
        "TORCHROOM_WARN_MINUTES": "",
        "CONFIGPROXY_AUTH_TOKEN": "secret",
    }
    found, inherited = settings.read(hubs), settings.of_console(hubs)
    assert inherited == {
        "TORCHROOM_DATA_DIR": "/srv/data",
        "TORCHROOM_WELCOME_TOKENS": "5",
    }
    assert settings.read_ledger(inherited) == found.ledger
    assert found.console_port == 8082
    with pytest.raises(settings.SettingError, match="TORCHROOM_CONSOLE_PORT"):
        settings.read(
            {"TORCHROOM_USER_IMAGE": "image", "TORCHROOM_CONSOLE_PORT": "65536"}
        )


# ------------------------------------------------------------ the ledger behind the hub


def ledger_in(folder: Path, **more: str) -> settings.LedgerSettings:
    """Settings of a ledger in a folder."""
    return settings.read_ledger({"TORCHROOM_DATA_DIR": str(folder)} | more)


async def test_the_ledger_is_ready_before_the_hub_starts(tmp_path: Path) -> None:
    """Tables and prices are there; a price list counts once. A loop runs already."""
    async with metering.open_ledger(ledger_in(tmp_path)) as ledger:
        prices = await ledger.prices.current(datetime.now(UTC))
        assert prices["cpu"] == 0
        assert prices["*"]
        assert ledger.policy.welcome == 100 * MICRO
    other = tmp_path / "other.toml"
    other.write_text('[tokens_per_hour]\ncpu = "1"\n')
    again = ledger_in(tmp_path, TORCHROOM_PRICES=str(other))
    async with metering.open_ledger(again, policy=Policy(welcome=1)) as ledger:
        assert await ledger.prices.current(datetime.now(UTC)) == prices
        assert ledger.policy.welcome == 1


def test_a_price_list_that_cannot_be_read_stops_the_hub(tmp_path: Path) -> None:
    """With a sentence: nothing is free by accident."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[tokens_per_hour]\ncpu = 0.1\n")
    with pytest.raises(BadInput, match="in quotes"):
        metering.open_ledger(ledger_in(tmp_path, TORCHROOM_PRICES=str(wrong)))


async def test_a_database_that_is_late_does_not_keep_the_hub_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again until it answers; then everything is there."""
    tries, ready = iter(range(3)), threading.Event()

    def late(url: str) -> None:
        if next(tries, None) is not None:
            raise Unavailable("The database does not answer.")
        migrate(url)

    prepare = metering._prepare

    def prepared(url: str, listing: str) -> None:
        prepare(url, listing)
        ready.set()

    monkeypatch.setattr(metering, "migrate", late)
    monkeypatch.setattr(metering, "_prepare", prepared)
    monkeypatch.setattr(metering, "TRY_EVERY_S", 0.01)
    async with metering.open_ledger(ledger_in(tmp_path)) as ledger:
        assert await asyncio.to_thread(ready.wait, 30)
        assert (await ledger.prices.current(datetime.now(UTC)))["cpu"] == 0


def test_all_spawners_of_a_hub_share_one_meter(tmp_path: Path) -> None:
    """It is the ledger's, in a class that the plugin's settings apply to."""
    ledger = metering.open_ledger(ledger_in(tmp_path))
    made = metering.spawner_class(ledger, "http://hub:8082/api")
    first, second = made(), made()
    assert isinstance(first.meter, LedgerMeter)
    assert first.meter is second.meter
    assert issubclass(made, GPUDockerSpawner)


def test_simulated_gpus_are_announced_and_real_ones_need_no_banner() -> None:
    """The banner stands on every page."""
    assert "simulated" in pages.announcement(4)
    assert pages.announcement(0) == ""
