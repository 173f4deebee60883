"""What admins see of the steward, and what the deployment passes to it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from steward.lab import HOUR, MINUTE, NOW, Lease, Room
from torchroom import cli
from torchroom.steward import report, settings
from torchroom.steward.model import Look
from torchroom.steward.service import VARIABLES

ROOT = Path(__file__).resolve().parents[2]


async def test_the_report_says_what_it_thinks_and_did(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, use in enumerate(["idle", "busy", "unknown"]):
        lease = room.hub.add(Lease(f"ls_{i}", use, server="lab" * i, use=use))
        if use == "idle":
            lease.idle(NOW)
    room.hub.add(Lease("ls_9", "cpu", offer="cpu", use=None, last_activity=NOW))
    await room.look(25 * MINUTE)
    store = room.store
    text = "\n".join(
        report.lines(store.look(), store.seen(), store.events(), room.clock.time)
    )
    assert "The last look was 1 minute ago." in text
    assert "  idle  1-gpu  idle  warn  idle in 5 minutes  x" in text
    assert "  busy/lab  1-gpu  busy  keep  x" in text
    assert "  cpu  cpu  keep  cpu_idle in 65 minutes" in text
    assert "warned  idle  idle  The GPU of this server has computed nothing" in text
    room.store.keep_trouble(room.clock.time + HOUR, "The hub is silent.")
    shown = report.lines(store.look(), [], [], room.clock.time + HOUR)
    assert shown[0] == (
        "The last look was 1 minute ago. It saw nothing, so nothing is stopped: The "
        "hub is silent. What follows is 60 minutes old."
    )
    assert "No server runs." in shown
    assert "Nothing was ever warned or stopped." in shown
    monkeypatch.setenv("TORCHROOM_DATA_DIR", str(room.folder))
    assert cli.main(["steward", "report", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [server["verdict"] for server in found["servers"]].count("warn") == 1
    assert found["events"][0]["evidence"]["use"] == "idle"
    assert found["look"]["trouble"]


def test_a_report_before_the_first_look() -> None:
    """And after one that saw nothing, and none did before."""
    assert report.lines(None, [], [], NOW)[0] == "The steward has not looked yet."
    blind = report.lines(Look(NOW, None, "The hub is silent."), [], [], NOW)
    assert blind[0].endswith("nothing is stopped: The hub is silent.")


def test_a_report_of_a_steward_that_does_not_run_says_so() -> None:
    """A policy that cannot be read, for one."""
    look = Look(NOW, NOW, "", 3)
    assert "hub's log" not in report.lines(look, [], [], NOW + MINUTE)[0]
    assert report.lines(look, [], [], NOW + HOUR)[0] == (
        "The last look was 60 minutes ago. The steward does not look, so nothing is "
        "stopped: it looks twice a minute where it runs. See the hub's log. What "
        "follows is 60 minutes old."
    )


async def test_a_dry_run_is_told(room: Room) -> None:
    room.policy = replace(room.policy, is_dry_run=True)
    room.begin()
    room.hub.add(Lease("ls_1", "alice")).idle(NOW)
    await room.look(25 * MINUTE)
    text = "\n".join(
        report.lines(
            room.store.look(), room.store.seen(), room.store.events(), room.clock.time
        )
    )
    assert "Dry run: nothing is stopped." in text
    assert "warned (dry run)" in text


class TestDeployment:
    """docker-compose.yml passes on what people set."""

    @pytest.fixture
    def hub(self) -> dict[str, Any]:
        """The hub's service."""
        text = (ROOT / "docker-compose.yml").read_text()
        found: dict[str, Any] = yaml.safe_load(text)["services"]["hub"]
        return found

    def test_every_variable_reaches_the_hub(self, hub: dict[str, Any]) -> None:
        assert set(VARIABLES) <= set(hub["environment"])
        mounts = {m["target"]: m for m in hub["volumes"] if isinstance(m, dict)}
        for name in VARIABLES:
            if name.endswith(("_FILE", "_POLICY")):
                mount = mounts[hub["environment"][name]]
                assert mount["source"].startswith(f"${{{name}:-")
                assert mount["read_only"] is True
                assert mount["bind"] == {"create_host_path": False}

    def test_the_default_policy_is_where_it_is_mounted_from(
        self, hub: dict[str, Any]
    ) -> None:
        target = hub["environment"]["TORCHROOM_STEWARD_POLICY"]
        (mount,) = [m for m in hub["volumes"]
                    if isinstance(m, dict) and m["target"] == target]  # fmt: skip
        path = mount["source"].partition(":-")[2].rstrip("}")
        assert (ROOT / path).samefile(settings.EXAMPLE)
