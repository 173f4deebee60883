"""Starts the single-user server without importing what its boot does not need.

`jupyterhub-singleuser` imports the hub's database layer, three HTTP clients and every
authority's certificate before it answers. Here those wait until somebody uses them.
Nothing is left out: the first use loads the real thing. When `prepare` cannot do its
work, with other versions for example, the plain `jupyterhub-singleuser` runs instead.
"""

import contextlib
import functools
import gc
import importlib
import os
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

OTHER_SERVER = ("JUPYTERHUB_SINGLEUSER_APP", "JUPYTERHUB_SINGLEUSER_EXTENSION")
"""Variables that choose another server than the one this is made for."""


class Deferred(ModuleType):
    """Stands for a module, and loads it when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        """Return the real module's attribute.

        Raises:
            ImportError: The boot itself uses what was thought to be of no use to it.
        """
        if name.startswith("__"):  # the import system looks for some that are not there
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            raise ImportError(f"the boot uses {name}", name=self.__name__)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def deferring(modules: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Let imports get these modules deferred; afterwards an import loads the real one.

    Args:
        modules: Name of a module -> stand-ins for what is imported from it by name.
    """
    stands = {name: Deferred(name) for name in modules if name not in sys.modules}
    for name, module in stands.items():
        vars(module).update(modules[name])
    sys.modules.update(stands)
    try:
        yield
    finally:
        for name in stands:
            del sys.modules[name]


# ----------------------------------------------------------------- the hub's own side


class HealthCheckHandler:
    """The hub's; jupyterhub.log asks whether a request was for it. Here none is."""


class SQLAlchemyError(Exception):
    """The database's; jupyterhub.utils catches it. A server has no database."""


HUB_ONLY: Mapping[str, Mapping[str, object]] = {
    "jupyterhub.handlers.pages": {"HealthCheckHandler": HealthCheckHandler},
    "jupyterhub.orm": {},
    "jupyterhub.roles": {},
    "sqlalchemy": {},
    "sqlalchemy.exc": {"SQLAlchemyError": SQLAlchemyError},
}


# --------------------------------------------------------------- JupyterLab's own side


class LatePyPIManager:
    """JupyterLab's extension manager, made when its panel asks for something."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    @property
    def metadata(self) -> Any:
        """What the page is told about it; the same as the real one's."""
        manager = importlib.import_module("jupyterlab.extensions.manager")
        return manager.ExtensionManagerMetadata("PyPI", True, sys.prefix)

    @functools.cached_property
    def _real(self) -> Any:
        pypi = importlib.import_module("jupyterlab.extensions.pypi")
        try:
            return pypi.PyPIExtensionManager(*self._arguments)
        except Exception:  # noqa: BLE001 - as JupyterLab does, whatever it is
            readonly = importlib.import_module("jupyterlab.extensions.readonly")
            return readonly.ReadOnlyExtensionManager(*self._arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


# ------------------------------------------------------------------------ certificates


class LateContext(ssl.SSLContext):
    """A TLS context that reads the authorities' certificates at its first connection.

    Until then it trusts nobody.
    """

    late: Callable[[], None] | None = None

    def _read(self) -> None:
        late, self.late = self.late, None
        if late is not None:
            late()

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """See ssl.SSLContext."""
        self._read()
        return super().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See ssl.SSLContext."""
        self._read()
        return super().wrap_bio(*args, **kwargs)

    def cert_store_stats(self) -> dict[str, int]:
        """See ssl.SSLContext."""
        self._read()
        return super().cert_store_stats()

    def get_ca_certs(self, *args: Any, **kwargs: Any) -> Any:
        """See ssl.SSLContext."""
        self._read()
        return super().get_ca_certs(*args, **kwargs)


@contextlib.contextmanager
def late_certificates() -> Iterator[None]:
    """Let contexts made meanwhile read the default certificates when they need them."""

    def later(real: Callable[..., None]) -> Callable[..., None]:
        def method(context: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
            context.__class__ = LateContext
            vars(context)["late"] = functools.partial(real, context, *args, **kwargs)

        return method

    with contextlib.ExitStack() as stack:
        for name in ("load_default_certs", "set_default_verify_paths"):
            real = getattr(ssl.SSLContext, name)
            stack.enter_context(mock.patch.object(ssl.SSLContext, name, later(real)))
        yield


# -------------------------------------------------------------------------------- boot


def prepare() -> None:
    """Import what the server needs, and defer what its boot does not.

    Raises:
        Exception: Packages are not as foreseen; the process must not go on.
    """
    gc.disable()  # nothing of what is imported is ever garbage
    late_manager = {"PyPIExtensionManager": LatePyPIManager}
    with late_certificates():
        importlib.import_module("aiohttp")
    with deferring(HUB_ONLY):
        importlib.import_module("jupyterhub.singleuser.extension")
    with deferring({"requests": {}}):
        importlib.import_module("jupyterlab_server.listings_handler")
    with deferring({"jupyterlab.extensions.pypi": late_manager}):
        importlib.import_module("jupyterlab.labapp")
    gc.freeze()
    gc.enable()


def main() -> None:
    """Run the single-user server."""
    if not any(os.environ.get(name) for name in OTHER_SERVER):
        try:
            prepare()
        except Exception as error:  # noqa: BLE001 - whatever it is, a slow boot is better
            print(f"booting the plain way: {error!r}", file=sys.stderr)
            plain = str(Path(sys.executable).parent / "jupyterhub-singleuser")
            os.execv(plain, [plain, *sys.argv[1:]])  # noqa: S606 - in our place
    importlib.import_module("jupyterhub.singleuser").main()
