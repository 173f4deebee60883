"""What the gate says no to.

GateError
├── Refused         the rules forbid it (403); the text says what and why
├── Malformed       it is not a request that can be judged; `status` says how so
└── Unanswered      the engine does not answer the gate (502): nothing is known
"""


class GateError(Exception):
    """Root of the gate's errors; the text is a sentence for an admin."""

    status = 500


class Refused(GateError):
    """The hub may not ask the engine for this."""

    status = 403


class Malformed(GateError):
    """Bytes that two programs might read differently, or that are too many."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Unanswered(GateError):
    """The engine cannot be asked, or its answer cannot be read."""

    status = 502
