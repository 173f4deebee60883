"""How commands talk to the person at the keyboard: steps with times, and sentences."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

_stream: list[TextIO] = []


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
    try:
        main()
    except Failure as failure:
        _complain(failure.what, failure.todo)
    except KeyboardInterrupt:
        _complain(
            "stopped from the keyboard", "run the same command again; it goes on."
        )
    except BrokenPipeError:
        sys.stderr.close()
        os._exit(1)
    except OSError as error:
        _complain(f"the system refused: {error}", "mend that and run it again.")
    sys.exit(0)


def _complain(what: str, todo: str) -> NoReturn:
    say(f"\nFailed: {what}")
    if todo:
        say(f"Next:   {todo}")
    sys.exit(1)
