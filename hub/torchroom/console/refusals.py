"""Every way the console itself says no; all others are the ledger's.

LedgerError
├── NotIdentified        no token, or one that the hub does not know
├── NotAllowed           the token lacks a scope; the text says which
├── TooSlow              the request did not arrive in time
├── TooLarge             what was sent is longer than any request needs to be
└── HubSilent            the hub does not answer, so nobody can be identified
"""

from torchroom.ledger.errors import LedgerError


class NotIdentified(LedgerError):
    """Nobody is known to ask."""

    code = "not_identified"
    http_status = 401


class NotAllowed(LedgerError):
    """The one who asks may not do this."""

    code = "not_allowed"
    http_status = 403


class TooSlow(LedgerError):
    """The request did not arrive in time."""

    code = "too_slow"
    http_status = 408


class TooLarge(LedgerError):
    """The request is longer than any needs to be."""

    code = "too_large"
    http_status = 413


class HubSilent(LedgerError):
    """The hub does not answer, or not in a way that is understood."""

    code = "hub_unavailable"
    http_status = 503
