"""What the gate is told, and what it says when that cannot be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gate.behind import request, say
from testbed.engine import wait_until
from torchroom.gate import settings
from torchroom.settings import SettingError

GIVEN = {"TORCHROOM_HUB_ID": "lab", "TORCHROOM_NETWORK": "lab-servers"}


def test_two_settings_are_enough() -> None:
    """Nothing is allowed beyond what the plugin sends."""
    here = settings.read(GIVEN)
    policy = here.policy
    assert (policy.hub_id, policy.network) == ("lab", "lab-servers")
    assert (policy.caps, policy.images, policy.mounts) == (frozenset(), (), ())
    assert here.engine == "/var/run/docker.sock"


def test_a_site_may_allow_more() -> None:
    """Images by pattern, folders and volumes, a few capabilities."""
    policy = settings.read(
        GIVEN
        | {
            "TORCHROOM_GATE_IMAGES": "school/*, lab/x:1",
            "TORCHROOM_GATE_MOUNTS": "/srv/my data,models:rw,/srv/b:ro",
            "TORCHROOM_GATE_CAPS": "setuid,CAP_SETGID",
        }
    ).policy
    assert policy.takes_image("school/a:2")
    assert not policy.takes_image("other/a:2")
    assert policy.may_mount("/srv/my data", writes=False)
    assert not policy.may_mount("/srv/my data", writes=True)
    assert policy.may_mount("models", writes=True)
    assert policy.caps == {"SETUID", "SETGID"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCHROOM_HUB_ID", ""),
        ("TORCHROOM_HUB_ID", "a/b"),
        ("TORCHROOM_NETWORK", ""),
        ("TORCHROOM_NETWORK", "host"),
        ("TORCHROOM_NETWORK", "bridge"),
        ("TORCHROOM_NETWORK", "container:x"),
        ("TORCHROOM_GATE_CAPS", "SYS_ADMIN"),
        ("TORCHROOM_GATE_CAPS", "ALL"),
        ("TORCHROOM_GATE_MOUNTS", "/"),
        ("TORCHROOM_GATE_MOUNTS", "/srv/../etc"),
        ("TORCHROOM_GATE_MOUNTS", "/srv:rw,rshared:x"),
        ("TORCHROOM_GATE_MOUNTS", "/srv:/data"),
        ("TORCHROOM_GATE_MOUNTS", "/var/run/docker.sock"),
        ("TORCHROOM_GATE_MOUNTS", "/run:rw"),
        ("TORCHROOM_GATE_MOUNTS", "/var"),
        ("TORCHROOM_GATE_MOUNTS", "/var/lib/docker/volumes"),
        ("TORCHROOM_GATE_MOUNTS", "/dev"),
        ("TORCHROOM_GATE_MOUNTS", "/proc/1/root"),
        ("TORCHROOM_GATE_MOUNTS", "/./run"),
    ],
)
def test_what_cannot_be_is_said(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name):
        settings.read(GIVEN | {name: value})


def start(folder: Path, **more: str) -> subprocess.Popen[str]:
    """The gate as a process, before an engine that is not there."""
    given = {
        "TORCHROOM_GATE_SOCKET": str(folder / "gate.sock"),
        "TORCHROOM_GATE_ENGINE": str(folder / "absent.sock"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "torchroom.gate"],
        env=os.environ | GIVEN | given | more,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_stands_until_it_is_asked_to_end(tmp_path: Path) -> None:
    """Over what a killed one left; for its group only; nothing is left then."""
    socket = tmp_path / "gate.sock"
    socket.touch()
    with start(tmp_path) as process:
        wait_until(socket.is_socket, what="the gate stands", within_s=20)
        wait_until(
            lambda: socket.stat().st_mode & 0o777 == 0o660,
            what="it is its group's",
            within_s=20,
        )
        assert say(socket, request("GET", "/_ping")).status == 502
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not socket.exists()


def test_it_does_not_start_with_what_it_cannot_use(tmp_path: Path) -> None:
    """A sentence in its log, no trace."""
    with start(tmp_path, TORCHROOM_GATE_CAPS="SYS_ADMIN") as process:
        said = process.communicate(timeout=20)[1]
        assert process.returncode == 1
    assert "SYS_ADMIN is not for servers" in said
    assert "Traceback" not in said
