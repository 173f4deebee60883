"""Every way a request can be refused or an engine can fail.

GPUSpawnerError
├── Refusal              the user reads `str(error)`; `reason` labels the metric
│   ├── InvalidSelection   what was asked for is not on offer
│   ├── NoCapacity         no slot is free now
│   ├── NotReady           the truth about the machine is not known yet
│   ├── NotPayable         the tokens do not suffice, or there is no price
│   └── TooOften           the user must wait before the next start
├── EngineUnknown        the engine did not answer: nothing is known, nothing stopped
├── EngineRefused        the engine answered no, with a sentence
│   └── EndedEarly         the server ended by itself before it answered
├── MeterFailed          the ledger does not answer: nothing was charged or reserved
├── ProbeFailed          NVML cannot say which devices there are
└── StoreFailed          a file that must outlive the hub cannot be read or written
"""


class GPUSpawnerError(Exception):
    """Root of this package's errors."""


class Refusal(GPUSpawnerError):
    """A request that cannot be granted; the text is a sentence for its user."""

    reason = "refused"
    http_status = 400


class InvalidSelection(Refusal):
    """The selection is not one of the offers this user may take."""

    reason = "selection"


class NoCapacity(Refusal):
    """Not enough free slots for this request."""

    reason = "capacity"
    http_status = 503


class NotReady(Refusal):
    """Leases cannot be granted because engine or devices are unknown."""

    reason = "unknown"
    http_status = 503


class NotPayable(Refusal):
    """The tokens do not suffice, or a slot has no price."""

    reason = "balance"
    http_status = 402


class TooOften(Refusal):
    """The user did this too often of late."""

    reason = "rate"
    http_status = 429


class MeterFailed(GPUSpawnerError):
    """The ledger does not answer; nothing was changed, and it may be tried again."""


class EngineUnknown(GPUSpawnerError):
    """The engine failed or timed out: the state of containers is *unknown*."""


class EngineRefused(GPUSpawnerError):
    """The engine answered and said no (a 4xx, or a start that failed).

    Attributes:
        status: The HTTP status of the answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class EndedEarly(EngineRefused):
    """What ran in the container ended before it answered; the text says how."""


class ProbeFailed(GPUSpawnerError):
    """NVML did not answer; the text says why and what to do."""


class StoreFailed(GPUSpawnerError):
    """A file could not be read or written; what it held before is unchanged."""
