"""The process that calls NVML, as the hub holds it: asked, listened to, killed, reaped.

Lines go to it and come from it as nvml/__main__.py describes. Threads do the reading,
so that nothing here depends on how the hub's event loop watches processes.
"""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, cast

Row = dict[str, Any]
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

COMMAND = (sys.executable, "-P", "-m", "gpuspawner.nvml", "--serve")


class Died(Exception):
    """The child ended before it answered."""


class Child:
    """One reader process. It is not reaped while somebody may still kill it.

    Attributes:
        pid: Its process id.
        gone: Set once the process has really ended.
        at: Index of the GPU that it is busy with, None if with none or with several.
        of: How many GPUs it has found.
        n_asked: Requests so far.
        started_at: By the clock of its owner.
    """

    def __init__(
        self, started_at: float, on_event: Callable[[Row], None], log: Log
    ) -> None:
        self.started_at = started_at
        self.gone = asyncio.Event()
        self.at: int | None = None
        self.of: int | None = None
        self.n_asked = 0
        self._on_event = on_event
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[Row] = self._loop.create_future()
        self._waiting.cancel()  # nobody waits yet
        self._reaping = threading.Lock()
        self._is_reaped = False
        # A session of its own, so that Ctrl-C at the hub does not end it first.
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self.pid = self._process.pid
        for work in (self._listen, self._log_errors):
            threading.Thread(target=work, daemon=True, name="nvml").start()

    async def ask(self, method: str, arguments: Row) -> Row:
        """Return the answer.

        Raises:
            Died: The process is gone.
        """
        self.n_asked += 1
        self.at = None
        self._waiting = self._loop.create_future()
        request = {"id": self.n_asked, "method": method, "arguments": arguments}
        line = json.dumps(request).encode() + b"\n"
        try:
            # Requests are short and one at a time: the pipe always has room.
            self._stdin.write(line)
            self._stdin.flush()
        except (OSError, ValueError):
            self._waiting.cancel()
            raise Died from None
        return await self._waiting

    def kill(self) -> None:
        """End the process; safe to call again, and never hits another one's PID."""
        with self._reaping:
            if not self._is_reaped:
                self._process.kill()

    def _listen(self) -> None:
        with cast("IO[bytes]", self._process.stdout) as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # half a line of one that died
                    self._tell(self._received, json.loads(line))
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            self._process.wait()
            self._is_reaped = True
        self._tell(self._ended)

    def _log_errors(self) -> None:
        with cast("IO[bytes]", self._process.stderr) as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                self._log.warning("GPU reader: %s", text)

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the hub's loop has ended
            self._loop.call_soon_threadsafe(what, *arguments)

    def _received(self, message: Row) -> None:
        if "event" in message:
            self._on_event(message["event"])
        elif "at" in message:
            self.at, self.of = message["at"], message["of"]
        elif not self._waiting.done() and message["id"] == self.n_asked:
            self._waiting.set_result(message)

    def _ended(self) -> None:
        self.gone.set()
        with contextlib.suppress(OSError):
            self._stdin.close()
        if not self._waiting.done():
            self._waiting.set_exception(Died())
