"""How commands talk to the person at the keyboard: steps with times, and sentences."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

_stream: list[TextIO] = []
_STOPS = (signal.SIGTERM, signal.SIGHUP)  # as good as Ctrl-C


class Failure(Exception):
    """Something that a person can act on: what happened, and what to do next."""

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(what)
        self.what, self.todo = what, todo


class Step:
    """One step of a command; `detail` ends up on its closing line."""

    detail: str = ""


def progress_to(stream: TextIO) -> None:
    """Send progress elsewhere (a command whose standard output is its result)."""
    _stream[:] = [stream]


def say(text: str = "") -> None:
    """Print one line of progress at once, also into a pipe."""
    print(text, file=_stream[0] if _stream else sys.stdout, flush=True)


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Announce a step, and say how long it took when it is done."""
    say(f"- {title}")
    started, current = time.monotonic(), Step()
    yield current
    took = f"{time.monotonic() - started:.1f} s"
    say(f"    {took:>7}  {current.detail or 'done'}")


def as_command(main: Callable[[], None]) -> NoReturn:
    """Run a main function; a failure becomes a sentence and an exit status."""
    for stream in (sys.stdout, sys.stderr):  # one that cannot show every letter
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _stoppable():
            main()
    except Failure as failure:
        _complain(failure.what, failure.todo)
    except KeyboardInterrupt:
        _complain("stopped before its end", "run the same command again; it goes on.")
    except BrokenPipeError:
        sys.stderr.close()
        os._exit(1)
    except PermissionError as error:
        _complain(f"the system refused: {error}", "run it as root.")
    except OSError as error:
        _complain(f"the system refused: {error}", "mend that and run it again.")
    sys.exit(0)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let whoever ends or leaves the terminal stop it as Ctrl-C does: orderly."""
    before = {number: signal.getsignal(number) for number in _STOPS}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # with nohup it is not
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _complain(what: str, todo: str) -> NoReturn:
    say(f"\nFailed: {what}")
    if todo:
        say(f"Next:   {todo}")
    sys.exit(1)
