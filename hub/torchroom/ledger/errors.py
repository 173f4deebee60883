"""Every way the ledger can say no. The text of each is a sentence for its reader.

LedgerError              code, http_status
├── BadInput             an amount, a name, a time or a key cannot be used
├── NotFound             no such course, voucher, lease, ...
├── KeyReused            an idempotency key came again with another request
├── NotEnough            the tokens do not suffice; nothing was changed
├── OverBudget           a course's budget or its cap per student does not allow it
├── UnknownPrice         a slot has no price here, so it cannot be leased
├── VoucherRefused       unknown, used up or expired; it does not say which
├── TooManyTries         wait before trying again
├── BadSignature         a message does not come from who it says
├── Unavailable          the database does not answer; try again
└── Corrupt              an invariant does not hold; nothing was changed
"""


class LedgerError(Exception):
    """Root of the ledger's errors.

    Attributes:
        code: Stable, for programs.
        http_status: What the REST API answers with.
    """

    code = "ledger"
    http_status = 500


class BadInput(LedgerError):
    """Something sent cannot be used; nothing was changed."""

    code = "bad_input"
    http_status = 422


class NotFound(LedgerError):
    """There is no such thing."""

    code = "not_found"
    http_status = 404


class KeyReused(LedgerError):
    """The idempotency key belongs to another request."""

    code = "key_reused"
    http_status = 409


class NotEnough(LedgerError):
    """The available tokens do not suffice."""

    code = "not_enough"
    http_status = 402


class OverBudget(LedgerError):
    """A course's budget or its cap per student does not allow it."""

    code = "over_budget"
    http_status = 409


class UnknownPrice(LedgerError):
    """A slot has no price, and there is no default for it."""

    code = "unknown_price"
    http_status = 409


class VoucherRefused(LedgerError):
    """The voucher is unknown, used or expired; the text does not say which."""

    code = "voucher_refused"
    http_status = 409


class TooManyTries(LedgerError):
    """Too many failed tries.

    Attributes:
        retry_after_s: When to try again.
    """

    code = "too_many_tries"
    http_status = 429

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadSignature(LedgerError):
    """A signed message is forged, altered, too old or not yet valid."""

    code = "bad_signature"
    http_status = 401


class Unavailable(LedgerError):
    """The database does not answer."""

    code = "unavailable"
    http_status = 503


class Corrupt(LedgerError):
    """An invariant does not hold. Nothing was changed."""

    code = "corrupt"
