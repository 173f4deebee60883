"""The steward as a process: started and ended by a real hub, alone, small."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.bare_hub import BareHub, free_port
from testbed.engine import wait_until
from torchroom import cli, roles
from torchroom.steward import service
from torchroom.steward.model import Look
from torchroom.steward.store import Store

RSS_MAX = 60 * 2**20
ENDS_WITHIN_S = 20


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[BareHub]:
    """A hub that runs the steward, but lets it see nothing."""
    found = BareHub(tmp_path)
    found.services = [
        {
            "name": roles.STEWARD,
            "command": service.COMMAND,
            "environment": {"TORCHROOM_DATA_DIR": str(tmp_path)},
        }
    ]
    try:
        found.begin()
        yield found
    finally:
        found.end()


def look(folder: Path) -> Look | None:
    """How the steward's last look went."""
    if not (folder / "steward.sqlite").exists():
        return None
    store = Store.open(folder)
    try:
        return store.look()
    finally:
        store.close()


def steward_of(hub: BareHub) -> int | None:
    """The steward's process."""
    assert hub.process is not None
    folder = Path(f"/proc/{hub.process.pid}/task")
    for path in folder.glob("*/children"):
        for pid in path.read_text().split():
            if b"torchroom.steward" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    return None


def is_gone(pid: int) -> bool:
    """Has a process ended?"""
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_a_hub_that_says_nothing_is_unknown(
    hub: BareHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It runs on, says what is wrong, stays small, and ends with its hub."""
    wait_until(lambda: look(tmp_path), what="it looks", within_s=60)
    seen = look(tmp_path)
    assert seen is not None
    assert seen.complete_at is None
    assert seen.trouble.startswith("The hub answered 40")
    pid = steward_of(hub)
    assert pid
    status = Path(f"/proc/{pid}/status").read_text()
    (rss_kib,) = (line.split()[1] for line in status.splitlines() if "VmRSS" in line)
    assert int(rss_kib) * 1024 < RSS_MAX
    monkeypatch.setenv("TORCHROOM_DATA_DIR", str(tmp_path))
    assert cli.main(["steward", "report"]) == 0
    assert "nothing is stopped" in capsys.readouterr().out
    hub.end()
    wait_until(lambda: is_gone(pid), what="it ended", within_s=ENDS_WITHIN_S)
    assert "Traceback" not in hub.log()


def test_one_of_a_hub_that_is_killed_ends_too(hub: BareHub, tmp_path: Path) -> None:
    wait_until(lambda: look(tmp_path), what="it looks", within_s=60)
    pid = steward_of(hub)
    assert pid
    assert hub.process is not None
    hub.process.kill()
    hub.process.wait(ENDS_WITHIN_S)
    wait_until(lambda: is_gone(pid), what="it ended", within_s=ENDS_WITHIN_S)


def process(folder: Path, **more: str) -> "subprocess.Popen[str]":
    """A steward of the test's own, whose hub does not answer."""
    environment = {
        "PATH": os.environ["PATH"],
        "JUPYTERHUB_API_URL": f"http://127.0.0.1:{free_port()}/hub/api",
        "JUPYTERHUB_API_TOKEN": "x" * 32,
        "TORCHROOM_DATA_DIR": str(folder),
        **more,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "torchroom.steward"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    first = process(tmp_path)
    wait_until(lambda: look(tmp_path), what="it looks", within_s=60)
    second = process(tmp_path)
    assert second.stderr is not None
    assert second.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(ENDS_WITHIN_S) == 0
    line = second.stderr.readline()
    assert "steward begins" in line
    second.send_signal(signal.SIGTERM)
    assert second.wait(ENDS_WITHIN_S) == 0


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"TORCHROOM_STEWARD_POLICY": "/nowhere"}, "The policy /nowhere cannot be"),
        ({"TORCHROOM_DATA_DIR": "/nowhere"}, "/nowhere cannot be written to"),
        ({"JUPYTERHUB_API_TOKEN": ""}, "JUPYTERHUB_API_TOKEN is not set"),
    ],
)
def test_one_that_cannot_start_says_why(
    tmp_path: Path, odd: dict[str, str], says: str
) -> None:
    _, said = (made := process(tmp_path, **odd)).communicate(timeout=60)
    assert made.returncode == 1
    assert says in said
    assert "Traceback" not in said


class TestCommands:
    """`torchroom steward`."""

    def test_a_policy_can_be_checked(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
        good.write_text(
            "[default]\nidle_minutes = 20\n"
            '[size."8-gpu"]\n[course.ml]\n[course.cs101.size.cpu]\n'
        )
        bad.write_text("[default]\nidle = 20\n")
        assert cli.main(["steward", "check", str(good)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "The policy can be used.",
            "Tables of courses: cs101, ml. A name that no course has changes nothing.",
            "Tables of sizes: 8-gpu, cpu. A name that no size has changes nothing.",
        ]
        assert cli.main(["steward", "check", str(bad)]) == 2
        assert "[default]: 'idle' is not known" in capsys.readouterr().err

    def test_without_a_file_there_is_no_report(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("TORCHROOM_DATA_DIR", str(tmp_path))
        assert cli.main(["steward", "report"]) == 1
        assert "the steward never ran" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
