"""Wires Torchroom's rooms together. No logic: each line hands a thing to a room."""

import os

from gpuspawner import window
from torchroom import metering, pages, public, roles, settings, strict
from torchroom.auth import wiring
from torchroom.console import scopes
from torchroom.firewall import presence
from torchroom.steward import service as steward

c = get_config()  # noqa: F821 - JupyterHub provides it
here = settings.read(os.environ)
site = public.read(os.environ)
who = wiring.login(os.environ, here.data_dir)
ledger = metering.open_ledger(here.ledger)
console_url = f"http://hub:{here.console_port}"
spawner_class = metering.spawner_class(ledger, f"{console_url}{metering.API}")

# Hub and proxy. Servers go on when the hub restarts.
c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"
c.JupyterHub.hub_connect_url = "http://hub:8081"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = here.proxy_api_url
c.JupyterHub.cleanup_servers = False
c.JupyterHub.update(site.jupyterhub)  # docs/https.md
c.JupyterHub.db_url = f"sqlite:///{here.data_dir / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(here.data_dir / "cookie-secret")
c.JupyterHub.allow_named_servers = True
c.JupyterHub.concurrent_spawn_limit = 0  # the spawner lets servers boot one by one
c.JupyterHub.template_vars = {"announcement": pages.announcement(here.n_simulated)}

# Who gets in: docs/login.md.
c.merge(who.config)
c.JupyterHub.tornado_settings.update(strict.SETTINGS)

# Tokens: the service with their REST API and page, and who may do what with them. A
# user may read and spend the own ones, a server may read its owner's balance.
c.JupyterHub.services = [
    {
        "name": scopes.SERVICE,
        "url": console_url,
        "command": metering.CONSOLE,
        "environment": settings.of_console(os.environ),
        "oauth_no_confirm": True,
        "oauth_client_allowed_scopes": list(scopes.OF_PAGE),
    },
    # Warns and stops servers: docs/steward.md.
    {
        "name": roles.STEWARD,
        "command": steward.COMMAND,
        "environment": steward.of_steward(os.environ),
    },
]

# What admins see of the GPUs: /hub/gpus, /hub/api/gpus, /hub/metrics.
c.JupyterHub.extra_handlers = window.handlers(spawner_class)

# Who may do what; docs/roles.md is the table.
granted = roles.grant(
    who.membership,
    window.SCOPES,
    admins=who.admins,
    services=[service["name"] for service in c.JupyterHub.services],
)
c.JupyterHub.load_roles = granted.load_roles
c.JupyterHub.custom_scopes = granted.custom_scopes
c.JupyterHub.extra_user_scopes = granted.extra_user_scopes
c.Spawner.server_token_scopes = granted.server_token_scopes
c.JupyterHub.template_paths = [pages.TEMPLATES]

# What they get.
c.JupyterHub.spawner_class = spawner_class
c.GPUDockerSpawner.hub_id = here.hub_id
c.GPUDockerSpawner.image = here.user_image
c.GPUDockerSpawner.pull_policy = "ifnotpresent"
c.GPUDockerSpawner.network_name = here.network
c.GPUDockerSpawner.use_internal_ip = True
c.GPUDockerSpawner.update(presence.of_spawner(os.environ))  # docs/isolation.md
c.GPUDockerSpawner.gpu_driver = here.gpu_driver
c.GPUDockerSpawner.state_dir = str(here.data_dir)
c.GPUDockerSpawner.home_policy = here.home_policy
c.GPUDockerSpawner.seed_home = str(here.welcome_dir / "home")
c.GPUDockerSpawner.deliver = {
    "/opt/torchroom/torchroom_welcome": str(here.welcome_dir / "torchroom_welcome")
}
c.GPUDockerSpawner.search_paths = {  # what warns in JupyterLab: docs/steward.md
    "JUPYTER_PATH": "/opt/torchroom/torchroom_welcome/lab/share",
    "JUPYTER_CONFIG_PATH": "/opt/torchroom/torchroom_welcome/lab/config",
}
c.Spawner.default_url = "/lab/tree/welcome.ipynb"
c.Spawner.poll_interval = 10
c.Spawner.start_timeout = 600  # an image may have to be pulled
c.Spawner.http_timeout = 120  # from the container's start to the answer
