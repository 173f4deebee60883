"""Warnings reach a real mail server and a real HTTP server, each once."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steward.lab import HOUR, MINUTE, NOW, Clock, keep
from testbed.bare_hub import free_port
from testbed.certificates import Authority
from testbed.mail_server import PASSWORD, mail_server
from torchroom.ledger.signatures import check
from torchroom.settings import SettingError
from torchroom.steward import settings
from torchroom.steward.hooks import (
    AT_ONCE,
    TRIES_MAX,
    Outbox,
    Receiver,
    Undelivered,
    pause_after,
)
from torchroom.steward.mail import Mail, MailSettings, Safety, address_of, compose
from torchroom.steward.model import Event, Message, Post
from torchroom.steward.service import of_steward
from torchroom.steward.store import Store
from torchroom.steward.webhook import ID, SIGNATURE, Webhook, WebhookSettings
from tornado import httpserver, netutil, web

SENDER = "torchroom@example.org"
EVENT = Event(NOW, "warned", "ls_1", "alice", "", "idle", "It stops in 10 minutes.")
MESSAGE = Message("ls_1-warned-7-mail", "mail", EVENT, NOW + 10 * MINUTE, 0, NOW)
SECRET = "0123456789abcdef" * 4


def mail(port: int, safety: Safety = Safety.NONE, **more: object) -> Mail:
    given = {"domain": "school.edu", **more}
    return Mail(MailSettings("127.0.0.1", port, safety, SENDER, **given))  # type: ignore[arg-type]


class TestMail:
    """Through aiosmtpd."""

    async def test_one_arrives(self) -> None:
        with mail_server() as server:
            await mail(server.port).send(MESSAGE)
        (arrived,) = server.mails
        assert server.receivers == ["alice@school.edu"]
        assert arrived["From"] == SENDER
        assert arrived["Subject"] == "Your server will stop"
        assert arrived["Message-ID"] == "<ls1-warned-7-mail@torchroom>"
        assert arrived["Auto-Submitted"] == "auto-generated"
        text = arrived.get_payload(decode=True)
        assert isinstance(text, bytes)
        assert text.decode().splitlines() == [
            "It stops in 10 minutes.", "", "It stops at 2026-06-01 12:10 UTC.",
        ]  # fmt: skip

    @pytest.mark.parametrize("safety", [Safety.TLS, Safety.STARTTLS])
    async def test_it_is_encrypted_and_signs_in(
        self, safety: Safety, tmp_path: Path
    ) -> None:
        authority = Authority.make(tmp_path)
        pair = authority.issue("127.0.0.1")
        is_tls = safety is Safety.TLS
        with mail_server(pair, is_tls=is_tls, needs_login=True) as server:
            given = {"user": "me", "password": PASSWORD}
            trusting = mail(server.port, safety, ca_file=authority.certificate, **given)
            await trusting.send(MESSAGE)
            assert (len(server.mails), server.logins) == (1, ["me"])
            with pytest.raises(Undelivered) as error:
                await mail(server.port, safety, **given).send(MESSAGE)
            assert not error.value.is_final
            assert len(server.logins) == 1

    async def test_a_server_without_starttls_gets_nothing(self) -> None:
        with mail_server() as server, pytest.raises(Undelivered):
            await mail(server.port, Safety.STARTTLS).send(MESSAGE)
        assert server.mails == []

    async def test_a_wrong_password_is_not_in_the_error(self, tmp_path: Path) -> None:
        authority = Authority.make(tmp_path)
        with mail_server(authority.issue("127.0.0.1"), needs_login=True) as server:
            wrong = mail(server.port, Safety.STARTTLS, user="me", password="hunter22",
                         ca_file=authority.certificate)  # fmt: skip
            with pytest.raises(Undelivered) as error:
                await wrong.send(MESSAGE)
        assert "does not accept the password" in str(error.value)
        assert "hunter22" not in f"{error.value} {wrong._settings}"

    @pytest.mark.parametrize(
        ("said", "is_final"), [("451 later", False), ("550 nobody here", True)]
    )
    async def test_refusals(self, said: str, is_final: bool) -> None:
        with mail_server() as server:
            server.says.append(said)
            with pytest.raises(Undelivered) as error:
                await mail(server.port).send(MESSAGE)
        assert error.value.is_final == is_final

    async def test_nobody_listens(self) -> None:
        with pytest.raises(Undelivered) as error:
            await mail(free_port()).send(MESSAGE)
        assert not error.value.is_final


@pytest.mark.parametrize(
    ("user", "domain", "address"),
    [
        ("alice", "school.edu", "alice@school.edu"),
        ("a@b.org", "school.edu", "a@b.org"),
        ("a@b.org", "", "a@b.org"),
        ("alice", "", None),
        ("ali ce", "school.edu", None),
        ("alice\r\nBcc: all", "school.edu", None),
        ("a,b", "school.edu", None),
        ("<a", "school.edu", None),
        ('"a', "school.edu", None),
        ("a@b@c", "school.edu", None),
        ("älice", "school.edu", None),
        ("a" * 250, "school.edu", None),
        ("", "school.edu", None),
        ("a..b", "school.edu", None),
        (".a", "school.edu", None),
        ("a.", "school.edu", None),
        ("a@-b.edu", "", None),
        ("a@b..edu", "", None),
        ("a.b+c", "school.edu", "a.b+c@school.edu"),
    ],
)
def test_who_is_written_to(user: str, domain: str, address: str | None) -> None:
    assert address_of(user, domain) == address


@given(st.emails() | st.from_regex(r"[a-z.+-]{1,9}@[a-z.-]{1,9}", fullmatch=True))
def test_who_has_an_address_can_be_written_to(user: str) -> None:
    if (address := address_of(user, "")) is not None:
        event = replace(EVENT, user=user)
        assert (
            compose(replace(MESSAGE, event=event), address, SENDER, NOW)["To"] == user
        )


@given(st.text(), st.text(), st.text())
def test_nothing_that_a_user_names_becomes_a_header(
    user: str, server: str, sentence: str
) -> None:
    """Nor a second receiver."""
    names = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted",
             "Content-Type", "Content-Transfer-Encoding", "MIME-Version"}  # fmt: skip
    event = replace(EVENT, user=user, server=server, sentence=sentence)
    address = address_of(user, "school.edu") or "alice@school.edu"
    made = compose(replace(MESSAGE, event=event), address, SENDER, NOW)
    head = made.as_bytes().partition(b"\n\n")[0].decode("ascii")
    lines = [line for line in head.split("\n") if not line.startswith((" ", "\t"))]
    assert {line.partition(":")[0] for line in lines} <= names
    assert made["To"] == address


class Receiving(web.RequestHandler):
    """Keeps what is posted, and says what the test says."""

    def initialize(self, kept: "Kept") -> None:
        self._kept = kept

    def post(self) -> None:
        kept = self._kept
        headers = self.request.headers
        kept.taken.append((headers[ID], headers[SIGNATURE], self.request.body))
        self.set_status(kept.says.pop(0) if kept.says else 204)


class Kept:
    """What arrived at the HTTP server at `url`."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, bytes]] = []
        self.says: list[int] = []
        self.url = ""


@pytest.fixture
async def hook() -> "Iterator[Kept]":  # type: ignore[misc]
    """A running HTTP server."""
    kept = Kept()
    (socket,) = netutil.bind_sockets(0, "127.0.0.1")
    server = httpserver.HTTPServer(
        web.Application([("/hook", Receiving, {"kept": kept})])
    )
    server.add_sockets([socket])
    kept.url = f"http://127.0.0.1:{socket.getsockname()[1]}/hook"
    yield kept
    server.stop()
    await server.close_all_connections()


class TestWebhook:
    """Through Tornado."""

    async def test_one_arrives_signed(self, hook: Kept) -> None:
        await Webhook(WebhookSettings(hook.url, SECRET)).send(MESSAGE)
        ((id_, signature, body),) = hook.taken
        assert id_ == MESSAGE.id
        check(body, signature, SECRET, int(time.time()))
        said = json.loads(body)
        assert (said["id"], said["action"], said["user"]) == (id_, "warned", "alice")
        assert said["stops_at"] == (NOW + 10 * MINUTE).isoformat()

    @pytest.mark.parametrize(
        ("status", "is_final"),
        [(400, True), (404, True), (410, True), (302, False), (408, False),
         (429, False), (500, False), (503, False)],
    )  # fmt: skip
    async def test_refusals(self, hook: Kept, status: int, is_final: bool) -> None:
        hook.says.append(status)
        with pytest.raises(Undelivered) as error:
            await Webhook(WebhookSettings(hook.url, SECRET)).send(MESSAGE)
        assert error.value.is_final == is_final

    async def test_nobody_listens(self) -> None:
        url = f"http://user:hunter22@127.0.0.1:{free_port()}/"
        with pytest.raises(Undelivered) as error:
            await Webhook(WebhookSettings(url, SECRET)).send(MESSAGE)
        assert not error.value.is_final
        assert "hunter22" not in str(error.value)


class Odd:
    """A receiver that takes what the test says, when it says so."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.errors: list[Undelivered] = []
        self.waits: asyncio.Event | None = None
        self.has_taken = asyncio.Semaphore(0)
        self.breaks_at = ""

    def reaches(self, user: str) -> bool:
        return bool(user)

    async def send(self, message: Message) -> None:
        if self.waits:
            await self.waits.wait()
        if message.id == self.breaks_at:
            raise IndexError("a bug")
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(message.id)
        self.has_taken.release()


HOOKS = ("mail", "webhook")


class Office:
    """An outbox with two receivers."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Store.open(folder)
        self.mail, self.webhook = Odd(), Odd()
        both: dict[str, Receiver] = {"mail": self.mail, "webhook": self.webhook}
        self.outbox = Outbox(self.store, both, self.clock)

    def note(self, n: int = 1, stops_in: timedelta | None = None) -> None:
        at = None if stops_in is None else NOW + stops_in
        for i in range(n):
            posts = [Post(f"{i}-{hook}", hook, at) for hook in HOOKS]
            keep(self.store, noted=[(EVENT, posts)])

    async def send(self) -> None:
        """Let each receiver have what is due."""
        await asyncio.gather(*map(self.outbox.once, HOOKS))

    @property
    def left(self) -> list[str]:
        at = NOW + 99 * HOUR
        return [m.id for hook in HOOKS for m in self.store.due(hook, at, 999)]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """With an empty store."""
    return Office(tmp_path)


class TestOutbox:
    """What is sent when, and what is not sent again."""

    async def test_each_gets_all_in_order(self, office: Office) -> None:
        office.note(3)
        await office.send()
        await office.send()
        assert office.mail.taken == ["0-mail", "1-mail", "2-mail"]
        assert office.webhook.taken == ["0-webhook", "1-webhook", "2-webhook"]
        assert office.left == []

    async def test_what_fails_is_sent_again_later(self, office: Office) -> None:
        office.note()
        office.mail.errors = [Undelivered("busy")]
        await office.send()
        await office.send()
        assert (office.mail.taken, office.webhook.taken) == ([], ["0-webhook"])
        office.clock.time += pause_after(1)
        await office.send()
        assert office.mail.taken == ["0-mail"]

    async def test_it_is_given_up_in_the_end(self, office: Office) -> None:
        office.note()
        office.mail.errors = [Undelivered("busy") for _ in range(99)]
        for _ in range(TRIES_MAX + 3):
            await office.send()
            office.clock.time += HOUR
        assert len(office.mail.errors) == 99 - TRIES_MAX
        assert office.left == []

    async def test_a_refusal_for_good_is_believed(self, office: Office) -> None:
        office.note()
        office.mail.errors = [Undelivered("no such user", is_final=True)]
        await office.send()
        assert office.left == []

    async def test_one_that_breaks_its_receiver_holds_up_nobody(
        self, office: Office
    ) -> None:
        """It counts as a try, and is given up in the end."""
        office.note(2)
        office.mail.breaks_at = "0-mail"
        await office.send()
        assert office.mail.taken == ["1-mail"]
        assert office.left == ["0-mail"]
        for _ in range(TRIES_MAX):
            office.clock.time += HOUR
            await office.send()
        assert office.left == []

    async def test_a_warning_is_not_sent_after_the_stop(self, office: Office) -> None:
        office.note(stops_in=10 * MINUTE)
        office.clock.time += 10 * MINUTE
        await office.send()
        assert (office.mail.taken, office.left) == ([], [])

    async def test_a_receiver_that_is_gone_leaves_nothing(self, office: Office) -> None:
        keep(office.store, noted=[(EVENT, [Post("x", "pigeon")])])
        running = asyncio.create_task(office.outbox.run())
        office.note()
        async with asyncio.timeout(20):
            await office.mail.has_taken.acquire()
        await ended(running)
        assert office.store.due("pigeon", NOW) == []

    async def test_one_that_never_answers_holds_up_nobody(self, office: Office) -> None:
        """Not even the news that come later, be it ever so much that waits."""
        office.mail.waits = asyncio.Event()
        office.note(AT_ONCE + 1)
        running = asyncio.create_task(office.outbox.run())
        async with asyncio.timeout(20):
            for _ in range(AT_ONCE + 1):
                await office.webhook.has_taken.acquire()
            keep(office.store, noted=[(EVENT, [Post("later", "webhook")])])
            office.outbox.wake()
            await office.webhook.has_taken.acquire()
        assert office.webhook.taken[-1] == "later"
        assert office.mail.taken == []
        await ended(running)

    async def test_news_wake_it(self, office: Office) -> None:
        running = asyncio.create_task(office.outbox.run())
        async with asyncio.timeout(20):
            for i in range(3):
                keep(office.store, noted=[(EVENT, [Post(str(i), "mail")])])
                office.outbox.wake()
                await office.mail.has_taken.acquire()
        await ended(running)


async def ended(task: "asyncio.Task[None]") -> None:
    """End a task that would run for ever."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_pauses_grow_to_an_hour() -> None:
    pauses = [pause_after(n) for n in range(1, TRIES_MAX)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (timedelta(seconds=15), HOUR)


# -- settings ------------------------------------------------------------------------

HUB = {"JUPYTERHUB_API_URL": "http://hub/hub/api", "JUPYTERHUB_API_TOKEN": "secret"}


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """With a secret that is long enough."""
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


def test_settings_of_all_hooks(secret_file: Path) -> None:
    password = "p@ss:w/rd"
    found = settings.read(
        HUB
        | {
            "TORCHROOM_SMTP_URL": f"smtp://me:{quote(password, safe='')}@mail.edu",
            "TORCHROOM_MAIL_FROM": SENDER,
            "TORCHROOM_MAIL_DOMAIN": "school.edu",
            "TORCHROOM_SMTP_CA_FILE": "/dev/null",
            "TORCHROOM_WEBHOOK_URL": "https://hooks.edu/x",
            "TORCHROOM_WEBHOOK_SECRET_FILE": str(secret_file),
            "TORCHROOM_STEWARD_DRY_RUN": "1",
        }
    )
    assert found.mail == MailSettings(
        "mail.edu", 587, Safety.STARTTLS, SENDER, "school.edu", "me", password
    )
    assert found.webhook == WebhookSettings("https://hooks.edu/x", SECRET)
    assert found.policy.is_dry_run
    for hidden in (password, SECRET, "secret"):
        assert hidden not in repr(found)


def test_without_any_there_is_none() -> None:
    found = settings.read(HUB | {"TORCHROOM_WEBHOOK_SECRET_FILE": "/dev/null"})
    assert (found.mail, found.webhook, found.policy.is_dry_run) == (None, None, False)


MAIL = {"TORCHROOM_SMTP_URL": "smtp://mail.edu", "TORCHROOM_MAIL_FROM": SENDER}


@pytest.mark.parametrize(
    "odd",
    [
        {"JUPYTERHUB_API_TOKEN": ""},
        {"TORCHROOM_STEWARD_DRY_RUN": "yes"},
        {"TORCHROOM_STEWARD_POLICY": "/nowhere"},
        {"TORCHROOM_SMTP_URL": "mail.edu"},
        {"TORCHROOM_SMTP_URL": "http://mail.edu"},
        {"TORCHROOM_SMTP_URL": "smtp://"},
        {"TORCHROOM_SMTP_URL": "smtp://mail.edu:99999"},
        {"TORCHROOM_SMTP_URL": "smtp://[mail.edu"},
        {"TORCHROOM_SMTP_URL": "smtp://me@mail.edu"},
        {"TORCHROOM_SMTP_URL": "smtp://mail.edu/x"},
        {"TORCHROOM_SMTP_URL": "smtp+insecure://me:hunter22@mail.edu"},
        MAIL | {"TORCHROOM_SMTP_URL": "smtps://me:hunter22%C3%A4@mail.edu"},
        MAIL | {"TORCHROOM_MAIL_FROM": ""},
        MAIL | {"TORCHROOM_MAIL_FROM": "me\nBcc: you@x.org"},
        MAIL | {"TORCHROOM_MAIL_DOMAIN": "a b"},
        MAIL | {"TORCHROOM_SMTP_CA_FILE": "/nowhere"},
        {"TORCHROOM_WEBHOOK_URL": "ftp://x"},
        {"TORCHROOM_WEBHOOK_URL": "https://"},
        {"TORCHROOM_WEBHOOK_URL": "https://x:99999999"},
        {"TORCHROOM_WEBHOOK_URL": "https://x"},
        {"TORCHROOM_WEBHOOK_URL": "https://x",
         "TORCHROOM_WEBHOOK_SECRET_FILE": "/dev/null"},
        {"TORCHROOM_WEBHOOK_URL": "https://x",
         "TORCHROOM_WEBHOOK_SECRET_FILE": "/nowhere"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(odd: dict[str, str]) -> None:
    with pytest.raises(SettingError) as error:
        settings.read(HUB | odd)
    assert "hunter22" not in str(error.value)


def test_the_steward_gets_its_own_variables_only() -> None:
    env = {"TORCHROOM_SMTP_URL": "x", "TORCHROOM_LEDGER_URL": "y", "HOME": "z",
           "TORCHROOM_MAIL_FROM": ""}  # fmt: skip
    assert of_steward(env) == {"TORCHROOM_SMTP_URL": "x"}
