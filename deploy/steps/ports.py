"""The ports of this machine that people come to: free, or this deployment's own."""

from __future__ import annotations

import errno
import socket

from toolbox.client import docker
from toolbox.console import Failure

from steps import compose, tls
from steps.settings import Settings


def check(settings: Settings, site: tls.Site) -> None:
    """Fail if another program has a port: Compose would say so only after the builds.

    Raises:
        Failure: One is taken; the text says which setting names another.
    """
    wanted = {"TORCHROOM_PORT": ("127.0.0.1", settings.port)}
    if site.has_tls:
        address = "127.0.0.1" if site.address.is_loopback else ""
        wanted["TORCHROOM_HTTP_PORT"] = (address, site.tls.http_port)
        wanted["TORCHROOM_HTTPS_PORT"] = (address, site.tls.https_port)
    for name, (address, port) in wanted.items():
        if _is_taken(address, port) and not _is_ours(settings, port):
            raise Failure(*compose.port_taken(name, port))


def _is_taken(address: str, port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # else not ours to say: no right to
    return False


def _is_ours(settings: Settings, port: int) -> bool:
    label = f"label=com.docker.compose.project={settings.project}"
    published = docker("ps", "--filter", label, "--format", "{{.Ports}}")
    return f":{port}->" in published
