"""A real mail server on the loopback, which keeps what it takes."""

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from testbed.bare_hub import free_port

PASSWORD = "for-this-test-only"


@dataclass
class MailServer:
    """What arrived; `says` is its next answers to whole mails."""

    port: int
    mails: list[Message] = field(default_factory=list)
    receivers: list[str] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Take a mail, or say what the test says."""
        if self.says and (said := self.says.pop(0)):
            return said
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content))
        self.receivers += [str(address) for address in envelope.rcpt_tos]
        return "250 OK"

    def check(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str,
              data: Any) -> AuthResult:  # fmt: skip
        """Let in who has the password."""
        self.logins.append(data.login.decode())
        # Not handled: the server answers to a refusal itself.
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)


@contextlib.contextmanager
def mail_server(
    certificate: tuple[Path, Path] | None = None,
    *,
    is_tls: bool = False,
    needs_login: bool = False,
) -> Iterator[MailServer]:
    """A running server.

    Args:
        certificate: With its key: TLS is spoken.
        is_tls: From the start, instead of after STARTTLS.
        needs_login: Takes nothing from strangers.
    """
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    server = MailServer(free_port())
    controller = Controller(
        server,
        hostname="127.0.0.1",
        port=server.port,
        ssl_context=context if is_tls else None,
        tls_context=None if is_tls else context,
        require_starttls=bool(context and not is_tls),
        authenticator=server.check if needs_login else None,
        auth_required=needs_login,
        auth_require_tls=not is_tls,
    )
    controller.start()
    try:
        yield server
    finally:
        controller.stop()
