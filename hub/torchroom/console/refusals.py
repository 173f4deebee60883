"""Every way the console itself says no; all others are the ledger's.

LedgerError
├── NotIdentified        no token, or one that the hub does not know
├── NotAllowed           the token lacks a scope; the text says which
├── TooSlow              the request did not arrive in time
├── TooLarge             what was sent is longer than any request needs to be
├── HubSilent            the hub does not answer, so nobody can be identified
├── NoExtension          there is no such extension of a server, or no more time for it
└── StewardSilent        the steward's file cannot be used
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


class NoExtension(LedgerError):
    """The server is not extended; the text says why. Nothing was taken."""

    code = "no_extension"
    http_status = 409


class StewardSilent(LedgerError):
    """What the steward tells cannot be read."""

    code = "steward_unavailable"
    http_status = 503
