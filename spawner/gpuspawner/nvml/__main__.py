"""The program: asked and answering in lines of JSON, or printing the devices.

In: ``{"id", "method", "arguments"}``, one at a time. Out, in any order:

    {"at", "of"}        GPU `at` of `of` is about to be touched; null: no single one
    {"event"}           as soon as the driver reports it; the fields of sample.Event
    {"id", "result"}    rows with the fields of the nouns in model.py and sample.py;
                        what is unknown is left out
    {"id", "absence"}   a sentence: there is no GPU to be read
    {"id", "failure"}   a sentence: NVML does not work

When stdin ends, so does the process, even inside a call that hangs.

``python -m gpuspawner.nvml [--json]`` prints the devices.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

import pynvml as n

from gpuspawner.nvml.calls import Row
from gpuspawner.nvml.driver import Absent, Trouble
from gpuspawner.nvml.reader import Reader


class Output:
    """The lines that this process says, whole ones, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # whatever a library prints is for the log

    def say(self, message: Row) -> None:
        """Write one line; end the process if nobody reads any more."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError:
                os._exit(0)


def answer(reader: Reader, request: Row) -> Row:
    """Return the answer to one request."""
    said: Row = {"id": request["id"]}
    method: Callable[..., Row] = getattr(reader, request["method"])
    try:
        said["result"] = method(**request["arguments"])
    except Absent as error:
        said["absence"] = str(error)
    except Trouble as error:
        said["failure"] = str(error)
    except n.NVMLError as error:
        said["failure"] = f"NVML does not work here: {error}."
    return said


def serve() -> None:
    """Answer requests until stdin ends. Never returns."""
    output, requests = Output(), SimpleQueue[Row]()
    reader = Reader(
        at=lambda index, count: output.say({"at": index, "of": count}),
        report=lambda event: output.say({"event": event}),
    )

    def listen() -> None:
        for line in sys.stdin.buffer:
            requests.put(json.loads(line))
        os._exit(0)  # the hub is gone; a call that hangs must not keep this process

    threading.Thread(target=listen, daemon=True).start()
    while True:
        output.say(answer(reader, requests.get()))


def main() -> int:
    """Serve, or print the devices; exit 1 if NVML does not work."""
    if "--serve" in sys.argv[1:]:
        serve()
    said = answer(Reader(), {"id": 0, "method": "devices", "arguments": {}})
    devices = said.get("result", {}).get("devices", [])
    reason = said.get("absence") or said.get("failure")
    if "--json" in sys.argv[1:]:
        sys.stdout.write(json.dumps({"devices": devices, "reason": reason}) + "\n")
    else:
        lines = [f"GPU {d['index']} ({d['name']})  {d['uuid']}" for d in devices]
        sys.stdout.write("\n".join(lines or [str(reason)]) + "\n")
    return 1 if "failure" in said else 0


if __name__ == "__main__":
    sys.exit(main())
