"""The hub has a user number of its own: what it may read, and what it takes over."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml
from steps import settings
from testbed.engine_proxy import EngineProxy
from testbed.hub import LOGIN_FILE, Deployment, execute
from toolbox.console import Failure
from torchroom import uids

ROOT = Path(__file__).resolve().parents[2]
EARLIER = 1000
# A program that ended in the middle: what it has committed is in the -wal file alone.
INTERRUPTED = """
import os, sqlite3
books = sqlite3.connect("/data/books.sqlite")
books.execute("PRAGMA journal_mode=WAL")
books.execute("CREATE TABLE kept (word)")
books.execute("INSERT INTO kept VALUES ('paid')")
books.commit()
os._exit(0)
"""
GO_ON = """
import sqlite3
books = sqlite3.connect("/srv/torchroom/data/books.sqlite")
books.execute("INSERT INTO kept VALUES ('once more')")
books.commit()
print(books.execute("SELECT group_concat(word) FROM kept").fetchone()[0])
"""


class TestFiles:
    """What is mounted into the hub, it must be able to read."""

    @pytest.fixture
    def secret(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in [n for n in os.environ if n.startswith("TORCHROOM_")]:
            monkeypatch.delenv(name)
        path = tmp_path / "client secret"
        path.write_text("x")
        monkeypatch.setenv("TORCHROOM_OAUTH_CLIENT_SECRET_FILE", str(path))
        return path

    def test_one_that_the_hub_may_not_read_is_refused_with_a_command(
        self, secret: Path
    ) -> None:
        secret.chmod(0o600)
        with pytest.raises(Failure) as refused:
            settings.files()
        assert str(secret) in refused.value.what
        name = shlex.quote(str(secret))
        assert f"sudo chgrp {uids.HUB} {name} && sudo chmod 640 {name}" in (
            refused.value.todo
        )

    def test_one_that_everybody_may_read_passes(self, secret: Path) -> None:
        secret.chmod(0o644)
        assert settings.files() == {"TORCHROOM_OAUTH_CLIENT_SECRET_FILE": str(secret)}

    @pytest.mark.parametrize(
        ("mode", "owner", "group", "may"),
        [
            (0o640, EARLIER, uids.HUB, True),  # what that command makes of it
            (0o400, uids.HUB, EARLIER, True),
            (0o604, EARLIER, EARLIER, True),
            (0o400, EARLIER, EARLIER, False),  # as an earlier version wanted it
            (0o660, EARLIER, EARLIER, False),
            (0o606, EARLIER, uids.HUB, False),  # of its group, so it is no other
            (0o066, uids.HUB, uids.HUB, False),
        ],
    )
    def test_owner_group_and_mode_decide_as_the_kernel_does(
        self, *, mode: int, owner: int, group: int, may: bool
    ) -> None:
        found = os.stat_result((mode, 0, 0, 1, owner, group, 0, 0, 0, 0))
        assert settings.hub_may_read(found) is may


def test_all_that_say_the_numbers_say_the_same() -> None:
    """The image, the gate's service, and what the host's side counts on."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["engine-gate"]["user"] == f"{uids.GATE}:{uids.HUB}"
    recipe = (ROOT / "hub/Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert f"USER {uids.HUB}:{uids.HUB}\n" in recipe
    assert set(re.findall(r"\b6\d{4}\b", recipe)) == {str(uids.HUB), str(uids.GATE)}


@pytest.mark.docker
class TestEarlierVersion:
    """A deployment whose hub was user 1000 comes up with everything kept."""

    @pytest.fixture
    def mine(
        self,
        engine: docker.DockerClient,
        engine_socket: Path,
        gpu_dir: Path,
        tmp_path: Path,
    ) -> Iterator[Deployment]:
        with EngineProxy(engine_socket, engine_socket.parent / "own.sock") as proxy:
            deployment = Deployment(
                root=ROOT,
                engine=engine,
                proxy=proxy,
                gpu_dir=gpu_dir,
                state_dir=tmp_path,
                port=8110,
                project="torchroom-own",
            )
            deployment.up()
            yield deployment
            deployment.make("purge", answer=f"{deployment.project}\n")

    def test_it_comes_up_with_everything_kept(self, mine: Deployment) -> None:
        user = mine.new_user("keeper")
        lease = user.start("cpu")
        login = mine.login
        before = mine.service("hub")
        before.stop()
        as_earlier(mine, f"chown -R {EARLIER}:{EARLIER} /data")
        as_earlier(mine, f"chown 10001:{EARLIER} /gate")
        as_earlier(mine, f"python3 -c {shlex.quote(INTERRUPTED)}", user=EARLIER)
        assert "books.sqlite-wal" in as_earlier(mine, "ls /data")
        # as if it had been interrupted, and with something that is not the hub's
        as_earlier(mine, f"chown {uids.HUB} /data/jupyterhub.sqlite")
        as_earlier(mine, "touch /data/note && chown 0:0 /data/note")

        said = mine.up()

        assert f"taken over from user {EARLIER}" in said
        hub = mine.service("hub")
        assert hub.id != before.id
        assert owners(mine) == {"note": 0}
        assert execute(hub, ["python3", "-c", GO_ON]) == (0, "paid,once more\n")
        assert json.loads(execute(hub, ["cat", LOGIN_FILE])[1]) == login
        assert user.api("GET", f"/users/{user.name}").ok  # with the token of before
        assert user.lease() == lease  # the server went on
        assert user.answers()
        user.stop()  # so the gate answers the hub

        assert "taken over" not in mine.up()

        # an earlier version's backup, laid back over the new hub's
        as_earlier(mine, f"chown {EARLIER} /data/jupyterhub.sqlite")
        mine.up()
        assert owners(mine) == {"note": 0}
        assert user.api("GET", f"/users/{user.name}").ok


def as_earlier(deployment: Deployment, script: str, *, user: int = 0) -> str:
    """Run a script on the volumes of a deployment."""
    volumes = {"data": "/data", "engine-gate": "/gate"}
    said = deployment.engine.containers.run(
        deployment.service("hub").attrs["Config"]["Image"],
        ["sh", "-c", script],
        user=str(user),
        remove=True,
        volumes={
            f"{deployment.project}_{name}": {"bind": path, "mode": "rw"}
            for name, path in volumes.items()
        },
    )
    assert isinstance(said, bytes)
    return said.decode()


def owners(deployment: Deployment) -> dict[str, int]:
    """Files in the hub's data that are not the hub's -> whose they are."""
    rows = as_earlier(deployment, "cd /data && find . -printf '%U %P\\n'").splitlines()
    found = {name: int(uid) for uid, _, name in (row.partition(" ") for row in rows)}
    return {name: uid for name, uid in found.items() if uid != uids.HUB}
