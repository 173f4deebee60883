"""The plugin on somebody else's hub: a JupyterHub process without Torchroom."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker

from testbed.engine import wait_until
from testbed.engine_proxy import EngineProxy
from testbed.hub import Deployment

PORT, HUB_PORT, PROXY_API_PORT = 8020, 8091, 8092
PASSWORD = "for-this-test-only"
HUB_ID_FILE = "gpuspawner_hub_id"

# What that somebody has in the configuration anyway.
THEIRS = f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{PORT}"
c.JupyterHub.hub_port = {HUB_PORT}
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{PASSWORD}"
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{PROXY_API_PORT}"
"""


@contextlib.contextmanager
def plain_hub(
    folder: Path, lines: str, *, engine: docker.DockerClient, gpu_dir: Path
) -> Iterator[Deployment]:
    """Run a hub in a folder of its own, with these lines in its configuration.

    Stops it afterwards with all its servers.
    """
    proxy = ["docker", "run", "--rm", "--init", "--network=host"]
    proxy += ["--env=CONFIGPROXY_AUTH_TOKEN", os.environ["TORCHROOM_TEST_PROXY_IMAGE"]]
    config = folder / "jupyterhub_config.py"
    config.write_text(
        f"{THEIRS}\nc.ConfigurableHTTPProxy.command = {proxy!r}\n\n{lines}"
    )
    simulation = json.loads((gpu_dir / "simulation.json").read_text())
    bin_dir = Path(sys.executable).parent
    environment = os.environ | simulation["environment"]
    environment["PATH"] = f"{bin_dir}:{os.environ['PATH']}"
    deployment = Deployment(
        root=folder,
        engine=engine,
        proxy=EngineProxy(Path("unused"), folder / "unused.sock"),
        gpu_dir=gpu_dir,
        state_dir=folder,
        port=PORT,
        project="",
        _login={"user_password": PASSWORD},
    )
    with (folder / "hub.log").open("w") as log:
        hub = subprocess.Popen(
            [str(bin_dir / "jupyterhub"), "-f", str(config)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(
                lambda: deployment.is_up() or hub.poll() is not None,
                what="the plain hub answers",
                within_s=60,
            )
            assert hub.poll() is None, (folder / "hub.log").read_text()[-4000:]
            deployment.new_user("first").page("/hub/spawn")  # the hub names itself here
            deployment.project = (folder / HUB_ID_FILE).read_text().strip()
            yield deployment
        finally:
            hub.terminate()
            hub.wait(60)
