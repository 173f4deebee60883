"""What the gate itself asks the engine: whose is this?"""

import asyncio
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torchroom.gate import messages, streams
from torchroom.gate.errors import Refused, Unanswered
from torchroom.gate.policy import Policy

OK = 200
NOT_FOUND = 404
ASK_WITHIN_S = 60  # as long as the hub itself waits for the engine
ANSWER_MAX = 32 * 2**20  # a thousand containers in a list are about 3 MiB
KNOWN_MAX = 4096
ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said.

    Attributes:
        status: Of HTTP.
        raw: The body as it came.
    """

    status: int
    raw: bytes

    def json(self) -> Any:
        """Return the body read.

        Raises:
            Unanswered: It is not JSON.
        """
        try:
            return json.loads(self.raw)
        except ValueError:
            raise Unanswered("the engine's answer broke off") from None


class Told(Exception):
    """The engine has said what the hub is to be told; nothing is forwarded."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Engine:
    """The engine behind the gate, and which ids are known to be this hub's.

    Labels and ids never change, so what was ours once is ours for good; names are
    asked for every time.
    """

    def __init__(self, socket: str, policy: Policy) -> None:
        self.socket = socket
        self._policy = policy
        self._ours: OrderedDict[str, None] = OrderedDict()

    async def ask(self, target: str) -> Answer:
        """Make one GET.

        Raises:
            Unanswered: The engine does not, or not properly.
        """
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                return await self._ask(target)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
            raise Unanswered(f"the engine does not answer: {error}") from error

    async def _ask(self, target: str) -> Answer:
        engine = await streams.connect(self.socket)
        try:
            await engine.send(messages.question(target))
            head = await engine.reader.readuntil(b"\r\n\r\n")
            parts: list[bytes] = []
            size = 0
            while data := await engine.reader.read(streams.CHUNK):
                parts.append(data)
                size += len(data)
                if size > ANSWER_MAX:
                    raise ValueError("its answer is too long")
            return Answer(messages.status_of(head), b"".join(parts))
        finally:
            engine.close()

    async def container(self, version: str, ref: str) -> str:
        """Return the id of a container of this hub.

        Raises:
            Refused: It is somebody else's.
            Told: There is none, or the engine does not say.
        """
        if ref in self._ours:
            self._ours.move_to_end(ref)
            return ref
        return str((await self.inspected(version, ref))["Id"])

    async def inspected(self, version: str, ref: str) -> Any:
        """Return what the engine says of a container of this hub.

        Raises:
            Refused: It is somebody else's.
            Told: There is none, or the engine does not say.
        """
        answer = await self.ask(f"{version}/containers/{ref}/json")
        if answer.status != OK:
            raise Told(answer)
        found = answer.json()
        if not self.is_ours(found):
            raise Refused(f"the container {ref} is not a server of this hub")
        return found

    def is_ours(self, found: Any) -> bool:
        """Return whether an inspected container is this hub's; remember it if so."""
        name = str(found.get("Name", "")).removeprefix("/")
        labels = (found.get("Config") or {}).get("Labels")
        if not ID.fullmatch(str(found.get("Id"))):
            return False
        if not self._policy.owns(labels, name):
            return False
        self._remember(str(found["Id"]))
        return True

    async def execution(self, version: str, ref: str) -> str:
        """Return the id of a command that runs in a container of this hub.

        Raises:
            Refused: It runs in somebody else's.
            Told: There is none, or the engine does not say.
        """
        if ref in self._ours:
            return ref
        answer = await self.ask(f"{version}/exec/{ref}/json")
        if answer.status != OK:
            raise Told(answer)
        found = answer.json()
        if not ID.fullmatch(str(found.get("ID"))):
            raise Refused(f"the command {ref} cannot be told")
        await self.container(version, str(found.get("ContainerID")))
        self._remember(str(found["ID"]))
        return str(found["ID"])

    async def volume(self, version: str, name: str) -> Answer:
        """Return what the engine says of a volume of this hub.

        Raises:
            Refused: It is somebody else's, or more than a folder.
            Told: There is none, or the engine does not say.
        """
        answer = await self.ask(f"{version}/volumes/{name}")
        if answer.status != OK:
            raise Told(answer)
        found = answer.json()
        if found.get("Name") != name or not self._policy.owns_volume(found):
            raise Refused(f"the volume {name} is not a home of this hub")
        return answer

    def _remember(self, ref: str) -> None:
        self._ours[ref] = None
        if len(self._ours) > KNOWN_MAX:
            self._ours.popitem(last=False)
