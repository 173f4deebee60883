"""Warnings and ends of servers as e-mail."""

import asyncio
import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from enum import StrEnum
from pathlib import Path

from torchroom.steward.hooks import Undelivered
from torchroom.steward.model import WARNED, Message

WITHIN_S = 30.0
PERMANENT = 500  # SMTP: from here on a refusal is for good
_ATOM = "[A-Za-z0-9_%+=-]+"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*", re.ASCII)
LOCAL_MAX = 64
ADDRESS_MAX = 254


class Safety(StrEnum):
    """How the connection to the mail server is protected."""

    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MailSettings:
    """Where mail goes.

    Attributes:
        host: The mail server.
        port: See host.
        safety: See Safety; with STARTTLS a server that does not offer it gets nothing.
        sender: The address in "From".
        domain: NAME of a user is written to as NAME@domain; "": only users whose name
            is an address get mail.
        user: For the mail server, "" for none.
        password: See user.
        ca_file: Whom to trust besides the system's; None: nobody.
    """

    host: str
    port: int
    safety: Safety
    sender: str
    domain: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None


def is_address(text: str) -> bool:
    """Return whether this is an address that mail is sent to."""
    is_short = len(text) <= ADDRESS_MAX and len(text.partition("@")[0]) <= LOCAL_MAX
    return is_short and _ADDRESS.fullmatch(text) is not None


def address_of(user: str, domain: str) -> str | None:
    """Return a user's address, None if there is none that is safe to write to."""
    address = user if "@" in user or not domain else f"{user}@{domain}"
    return address if is_address(address) else None


def compose(message: Message, address: str, sender: str, now: datetime) -> EmailMessage:
    """Return the mail; all of it is plain text, and no header is anybody's own.

    Args:
        message: The news.
        address: As `address_of` returned it.
        sender: An address.
        now: Aware.
    """
    event = message.event
    server = f'your server "{_line(event.server)}"' if event.server else "your server"
    what = "will stop" if event.action == WARNED else "was stopped"
    mail = EmailMessage()
    mail["From"] = _address(sender)
    mail["To"] = _address(address)
    mail["Subject"] = f"{server[0].upper()}{server[1:]} {what}"
    mail["Date"] = format_datetime(now.astimezone(UTC))
    mail["Message-ID"] = f"<{re.sub('[^A-Za-z0-9-]', '', message.id)}@torchroom>"
    mail["Auto-Submitted"] = "auto-generated"
    when = ""
    if message.stops_at is not None:
        when = f"\n\nIt stops at {message.stops_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
    mail.set_content(f"{_line(event.sentence)}{when}\n")
    return mail


class Mail:
    """A receiver: sends mail through one server.

    Args:
        settings: Which.
    """

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings

    def reaches(self, user: str) -> bool:
        """Return whether the user has an address."""
        return address_of(user, self._settings.domain) is not None

    async def send(self, message: Message) -> None:
        """Send; see Receiver."""
        await asyncio.to_thread(self._send, message)

    def _send(self, message: Message) -> None:
        here = self._settings
        address = address_of(message.event.user, here.domain)
        if address is None:
            raise Undelivered("there is no address for this user", is_final=True)
        try:
            mail = compose(message, address, here.sender, datetime.now(UTC))
            with self._connection() as server:
                server.send_message(mail, here.sender, [address])
        except smtplib.SMTPRecipientsRefused as error:
            ((code, said),) = error.recipients.values()
            raise _refused(code, said) from error
        except smtplib.SMTPAuthenticationError as error:
            raise Undelivered("the mail server does not accept the password") from error
        except smtplib.SMTPResponseException as error:
            raise _refused(error.smtp_code, error.smtp_error) from error
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise Undelivered(f"{type(error).__name__}: {error}") from error

    @contextmanager
    def _connection(self) -> Iterator[smtplib.SMTP]:
        here = self._settings
        context = ssl.create_default_context()
        if here.ca_file:
            context.load_verify_locations(here.ca_file)
        if here.safety is Safety.TLS:
            opened: smtplib.SMTP = smtplib.SMTP_SSL(
                here.host, here.port, timeout=WITHIN_S, context=context
            )
        else:
            opened = smtplib.SMTP(here.host, here.port, timeout=WITHIN_S)
        with opened as server:
            if here.safety is Safety.STARTTLS:
                server.starttls(context=context)
            if here.user:
                server.login(here.user, here.password)
            yield server


def _refused(code: int, said: bytes | str) -> Undelivered:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return Undelivered(
        f"the mail server said {code} {_line(text)}", is_final=code >= PERMANENT
    )


def _address(address: str) -> Address:
    return Address(addr_spec=address)


def _line(text: str) -> str:
    """Return text on one line, without characters that end or steer one."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
