"""Running other programs: captured, time-limited, and with their last words kept."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from toolbox.console import Failure

_GRACE_SECONDS = 10


@dataclass(frozen=True)
class Result:
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Whether the program ended well."""
        return self.code == 0

    @property
    def last_words(self) -> str:
        """The last line that says something, to quote in a sentence."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit status {self.code}"


def attempt(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run a program and return how it ended, whatever that was."""
    try:
        with _running(argv, env=env, cwd=cwd, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(stdin, timeout=timeout)
    except FileNotFoundError:
        return Result(127, "", f"{argv[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Result(124, "", f"{argv[0]} gave no answer within {timeout:.0f} s")
    return Result(process.returncode, out, err)


def run(
    argv: Sequence[str],
    *,
    todo: str = "",
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program that must succeed and return its standard output."""
    result = attempt(argv, env=env, stdin=stdin, timeout=timeout, cwd=cwd)
    if not result.ok:
        name = " ".join([Path(argv[0]).name, *argv[1:3]])
        raise Failure(f"`{name}`: {result.last_words}", todo)
    return result.out


def follow(
    argv: Sequence[str],
    *,
    log: Path,
    line: Callable[[str, float], None],
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a long program: all output into `log`, every line with its time to `line`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (
        log.open("w", encoding="utf-8") as file,
        _running(argv, env=env, stderr=subprocess.STDOUT) as process,
    ):
        for text in process.stdout or ():
            file.write(text)
            line(text.rstrip("\n"), time.monotonic() - started)
    return process.returncode


@contextmanager
def _running(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[str]]:
    """Run a program; whatever goes wrong here, it ends, with time to clean up."""
    with subprocess.Popen(
        list(argv),
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
            process.kill()
            raise
