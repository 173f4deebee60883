"""Wires Torchroom's rooms together. No logic: each line hands a thing to a room."""

import os

from gpuspawner import window
from torchroom import login, metering, pages, settings
from torchroom.console import scopes

c = get_config()  # noqa: F821 - JupyterHub provides it
here = settings.read(os.environ)
local = login.local_login(here.data_dir)
ledger = metering.open_ledger(here.ledger)
console_url = f"http://hub:{here.console_port}"
spawner_class = metering.spawner_class(ledger, f"{console_url}{metering.API}")

# Hub and proxy. Servers go on when the hub restarts.
c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"
c.JupyterHub.hub_connect_url = "http://hub:8081"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = here.proxy_api_url
c.JupyterHub.cleanup_servers = False
c.JupyterHub.db_url = f"sqlite:///{here.data_dir / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(here.data_dir / "cookie-secret")
c.JupyterHub.allow_named_servers = True
c.JupyterHub.concurrent_spawn_limit = 0  # the spawner lets servers boot one by one
c.JupyterHub.template_vars = {"announcement": pages.announcement(here.n_simulated)}

# Who gets in. allow_all is for the local login only, and that is bound to 127.0.0.1.
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = local.user_password
c.SharedPasswordAuthenticator.admin_password = local.admin_password
c.Authenticator.admin_users = {local.admin_user}
c.Authenticator.allow_all = True

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
    }
]
c.JupyterHub.custom_scopes = scopes.CUSTOM_SCOPES
c.JupyterHub.extra_user_scopes = {scopes.EVERYBODY, scopes.ACCESS}
c.Spawner.server_token_scopes = list(scopes.SERVER)

# What admins see of the GPUs: /hub/gpus, /hub/api/gpus, /hub/metrics.
c.JupyterHub.extra_handlers = window.handlers(spawner_class)
c.JupyterHub.load_roles = [
    {
        "name": "gpu-admin",
        "description": "See who holds which GPU, take GPUs out of service",
        "scopes": list(window.SCOPES),
        "users": [local.admin_user],
    },
    {
        "name": "token-admin",
        "description": "Grant tokens, set prices and budgets, see every statement",
        "scopes": [scopes.ADMIN],
        "users": [local.admin_user],
    },
    {
        "name": "token-service",
        "description": "Read who is in which course",
        "scopes": list(scopes.OF_SERVICE),
        "services": [scopes.SERVICE],
    },
]
c.JupyterHub.template_paths = [pages.TEMPLATES]

# What they get.
c.JupyterHub.spawner_class = spawner_class
c.GPUDockerSpawner.hub_id = here.hub_id
c.GPUDockerSpawner.image = here.user_image
c.GPUDockerSpawner.pull_policy = "ifnotpresent"
c.GPUDockerSpawner.network_name = here.network
c.GPUDockerSpawner.use_internal_ip = True
c.GPUDockerSpawner.gpu_driver = here.gpu_driver
c.GPUDockerSpawner.state_dir = str(here.data_dir)
c.GPUDockerSpawner.home_policy = here.home_policy
c.GPUDockerSpawner.seed_home = str(here.welcome_dir / "home")
c.GPUDockerSpawner.deliver = {
    "/opt/torchroom/torchroom_welcome": str(here.welcome_dir / "torchroom_welcome")
}
c.Spawner.default_url = "/lab/tree/welcome.ipynb"
c.Spawner.poll_interval = 10
c.Spawner.start_timeout = 600  # an image may have to be pulled
c.Spawner.http_timeout = 120  # from the container's start to the answer
