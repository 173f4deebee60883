"""The image's quick way to boot: what it defers is there when somebody uses it."""

import asyncio
import json
import re
from collections.abc import Iterator

import aiohttp
import docker
import pytest
from docker.models.containers import Container
from testbed.engine import wait_until
from testbed.hub import Deployment, User, crowd

pytestmark = pytest.mark.docker
DEFERRED = ("sqlalchemy", "alembic", "jupyterhub.orm", "requests", "httpx")


@pytest.fixture(scope="module")
def ann(deployment: Deployment) -> Iterator[User]:
    """Somebody whose server runs, started by the real hub."""
    with crowd(deployment) as make:
        user = make("boot")
        user.start("cpu")
        yield user


@pytest.fixture(scope="module")
def image(engine: docker.DockerClient, user_image: str) -> Iterator[Container]:
    """A container of the user image with nothing running in it, and no network."""
    container = engine.containers.run(
        user_image, ["sleep", "infinity"], detach=True, network_mode="none"
    )
    yield container
    container.remove(force=True, v=True)


def run(container: Container, *command: str, **environment: str) -> str:
    """What a command prints in a container, where it must succeed."""
    done = container.exec_run(list(command), environment=environment)
    assert isinstance(done.output, bytes)
    text = done.output.decode()
    assert done.exit_code == 0, text
    return text.strip()


def prepared(container: Container, code: str, **environment: str) -> str:
    """What Python code prints after a boot's imports."""
    lines = ["import sys, torchroom_boot as boot", "boot.prepare()", code]
    return run(container, "python", "-c", "\n".join(lines), **environment)


# ------------------------------------------------------------------- a running server


def test_the_hub_starts_the_quick_server(ann: User) -> None:
    """It is the image's own command that runs, and it did not fall back."""
    container = ann.container()
    processes = str(container.top()["Processes"])
    assert "torchroom-singleuser" in processes
    log = container.logs().decode()
    assert "booting the plain way" not in log
    assert "Traceback" not in log


def test_the_lab_page_knows_its_user(ann: User) -> None:
    """The page carries the hub's facts and the extension manager's."""
    page = ann.server_api("GET", "lab")
    assert page.ok
    found = re.search(r'(?s)id="jupyter-config-data"[^>]*>(.*?)</script>', page.text)
    assert found
    config = json.loads(found[1])
    assert config["hubUser"] == ann.name
    assert config["extensionManager"]["name"] == "PyPI"
    assert config["extensionManager"]["can_install"] is True


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("lab/api/settings", "settings"),
        ("lab/api/workspaces", "workspaces"),
        ("lab/api/translations", "data"),
        ("lab/api/licenses/", "bundles"),
        ("api/kernelspecs", "kernelspecs"),
        ("api/nbconvert", "html"),
        ("api/me", "identity"),
        ("lsp/status", "sessions"),
    ],
)
def test_what_the_page_asks_for_is_answered(ann: User, path: str, key: str) -> None:
    """Settings, workspaces, translations and the like."""
    reply = ann.server_api("GET", path)
    assert reply.ok, reply.text
    assert key in reply.json()


def test_the_extension_manager_answers(ann: User) -> None:
    """The panel's list of installed extensions, and a switch of a plugin."""
    reply = ann.server_api("GET", "lab/api/extensions?refresh=1")
    assert reply.ok, reply.text
    assert isinstance(reply.json(), list)
    assert ann.server_api("GET", "lab/api/plugins").ok


def test_files_are_written_listed_and_read(ann: User) -> None:
    """The file browser's way."""
    body = {"type": "file", "format": "text", "content": "hello"}
    made = ann.server_api("PUT", "api/contents/hello.txt", json=body)
    assert made.status_code == 201
    listed = ann.server_api("GET", "api/contents/").json()["content"]
    assert "hello.txt" in {entry["name"] for entry in listed}
    read = ann.server_api("GET", "api/contents/hello.txt?content=1").json()
    assert read["content"] == "hello"


@pytest.mark.parametrize(
    ("kind", "word"), [("html", "<html"), ("script", "import"), ("markdown", "#")]
)
def test_a_notebook_is_downloaded_as(ann: User, kind: str, word: str) -> None:
    """File > Save and Export."""
    reply = ann.server_api("GET", f"nbconvert/{kind}/welcome.ipynb?download=true")
    assert reply.ok, reply.text[:500]
    assert word in reply.text


def test_a_cell_runs(ann: User) -> None:
    """A kernel starts and answers."""
    kernel = ann.start_kernel()
    assert ann.run_in_kernel(kernel, "print(6 * 7)") == "42\n"


def test_a_terminal_opens(ann: User) -> None:
    """What is typed is run by a shell."""
    name = ann.server_api("POST", "api/terminals").json()["name"]
    assert "six is 6" in asyncio.run(typed(ann, name, "echo six is $((2 * 3))\r"))


async def typed(user: User, terminal: str, text: str) -> str:
    """Type into a terminal; return what it shows until it shows a result."""
    url = f"{user.deployment.url}/user/{user.name}/terminals/websocket/{terminal}"
    headers = {"Authorization": f"token {user.token}"}
    shown = ""
    async with (
        asyncio.timeout(30),
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(url) as socket,
    ):
        await socket.send_json(["stdin", text])
        async for message in socket:
            kind, *rest = json.loads(message.data)
            shown += rest[0] if kind == "stdout" else ""
            if "six is 6" in shown:
                break
    return shown


def test_the_server_tells_the_hub_of_activity(ann: User) -> None:
    """Culling depends on it."""
    told = re.compile(rf"20\d POST /hub/api/users/{ann.name}/activity")
    wait_until(
        lambda: told.search(ann.deployment.hub_log()),
        what="the server tells of its activity",
        within_s=60,
    )


def test_a_stranger_is_refused(ann: User) -> None:
    """The hub is asked who comes, and whether they may."""
    stranger = ann.deployment.new_user("stranger")
    url = f"{ann.deployment.url}/user/{ann.name}/api/contents/"
    headers = {"Authorization": f"token {stranger.token}"}
    assert stranger.session.get(url, headers=headers).status_code in {401, 403, 404}


# ------------------------------------------------------------------------- the imports


def test_a_boot_imports_nothing_of_it(image: Container) -> None:
    """Otherwise all this is for nothing."""
    code = f"print([name for name in {DEFERRED} if name in sys.modules])"
    assert prepared(image, code) == "[]"


def test_what_was_deferred_is_real_when_used(image: Container) -> None:
    """Through the modules that were given a stand-in, and imported anew."""
    code = """
import jupyterhub.scopes as scopes
from jupyterlab_server import listings_handler
print(scopes.orm.User.__tablename__, scopes.sa.__name__)
print(scopes.roles.get_default_roles.__name__)
print(listings_handler.requests.get.__module__)
import jupyterhub.handlers.pages, sqlalchemy.exc, jupyterlab.extensions.pypi
from jupyterhub.orm import User
print(User is scopes.orm.User, type(sys.modules['sqlalchemy']).__name__)
"""
    assert prepared(image, code).splitlines() == [
        "users sqlalchemy",
        "get_default_roles",
        "requests.api",
        "True module",
    ]


def test_the_extension_manager_is_jupyterlabs_own(image: Container) -> None:
    """Made when it is asked for something; and the page is told the same before."""
    code = """
import asyncio, jupyterlab.labapp as lab
from jupyterlab.extensions.manager import ExtensionManager
late = lab.EXT_MANAGERS['pypi'].load()({}, {}, None)
before, loaded = late.metadata, 'httpx' in sys.modules
print(type(late).__name__, loaded, asyncio.run(late.is_install_allowed('a b', None)))
print(isinstance(late._real, ExtensionManager), late._real.metadata == before)
"""
    lines = prepared(image, code).splitlines()
    assert lines[-2:] == ["LatePyPIManager False False", "True True"]


def test_garbage_is_collected_again(image: Container) -> None:
    """It rests during the imports only."""
    assert prepared(image, "import gc; print(gc.isenabled())") == "True"


SECURE_SERVER = """
import asyncio, datetime, os, ssl, threading, http.server
import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'localhost')])
now = datetime.datetime.now(datetime.UTC)
names = x509.SubjectAlternativeName([x509.DNSName('localhost')])
basic = x509.BasicConstraints(ca=True, path_length=None)
made = x509.CertificateBuilder(name, name, key.public_key(), 1,
    now - datetime.timedelta(1), now + datetime.timedelta(1))
made = made.add_extension(names, False).add_extension(basic, True)
pem = serialization.Encoding.PEM
private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption())
open('/tmp/c.pem', 'wb').write(made.sign(key, hashes.SHA256()).public_bytes(pem))
open('/tmp/k.pem', 'wb').write(private)
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
there = http.server.HTTPServer(('127.0.0.1', 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/tmp/c.pem', '/tmp/k.pem')
there.socket = context.wrap_socket(there.socket, server_side=True)
threading.Thread(target=there.serve_forever, daemon=True).start()
async def ask():
    async with aiohttp.ClientSession() as session:
        try:
            url = f'https://localhost:{there.server_port}/'
            async with session.get(url) as reply:
                return reply.status
        except aiohttp.ClientConnectorCertificateError:
            return 'refused'
"""


@pytest.mark.parametrize(("trusted", "answer"), [("no", "refused"), ("yes", "200")])
def test_certificates_are_checked(image: Container, trusted: str, answer: str) -> None:
    """Read late, but before the first connection: an unknown authority is refused."""
    trust = "os.environ['SSL_CERT_FILE'] = '/tmp/c.pem'" if trusted == "yes" else ""
    code = f"{SECURE_SERVER}\n{trust}\nprint(asyncio.run(ask()))"
    assert prepared(image, code) == answer


def test_the_public_authorities_are_trusted(image: Container) -> None:
    """Those of Debian, as without us."""
    code = """
import ssl, aiohttp.connector as c
here = c._SSL_CONTEXT_VERIFIED
print(here.verify_mode is ssl.CERT_REQUIRED, here.check_hostname,
      here.cert_store_stats() == ssl.create_default_context().cert_store_stats(),
      len(here.get_ca_certs()) > 50)
"""
    assert prepared(image, code) == "True True True True"


def test_another_version_boots_the_plain_way(image: Container) -> None:
    """Where a boot needs what is deferred here, jupyterhub-singleuser itself runs."""
    code = """
import sys, torchroom_boot as boot
boot.HUB_ONLY = {**boot.HUB_ONLY, 'jupyterhub.utils': {}}
sys.argv = ['torchroom-singleuser', '--version']
boot.main()
"""
    said = run(image, "python", "-c", code)
    plain = run(image, "jupyterhub-singleuser", "--version")
    assert "booting the plain way: ImportError" in said
    assert said.splitlines()[-1] == plain


def test_the_version_is_the_same(image: Container) -> None:
    """And so is everything else of the command line."""
    quick = run(image, "torchroom-singleuser", "--version")
    assert quick == run(image, "jupyterhub-singleuser", "--version")


def test_extensions_are_listed(image: Container) -> None:
    """`jupyter labextension list` in a terminal."""
    listed = run(image, "jupyter", "labextension", "list")
    assert "JupyterLab v4" in listed
    assert "jupyterlab_pygments" in listed


def test_the_boots_code_is_compiled(image: Container) -> None:
    """A student cannot write bytecode there, so it is shipped."""
    code = "import os, torchroom_boot as t; os.stat(t.__cached__); print(t.__cached__)"
    assert run(image, "python", "-c", code).endswith(".pyc")
