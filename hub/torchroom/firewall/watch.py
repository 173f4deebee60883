"""Putting the rules in place and keeping them there, look by look."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torchroom.firewall.rules import Table, placed
from torchroom.firewall.settings import FirewallError


class Tables(Protocol):
    """What `kernel.Kernel` does."""

    def saved(self, family: int) -> str:
        """See `kernel.Kernel.saved`."""

    def place(self, table: Table) -> tuple[str, ...]:
        """See `kernel.Kernel.place`."""

    def remove(self, table: Table) -> None:
        """See `kernel.Kernel.remove`."""


@dataclass
class Watch:
    """Keeps the rules in place, and a file fresh for as long as they are.

    Attributes:
        find: Finds the engine's tables; asked again after every failure.
        tables: What has to be there.
        flag: Touched after each look that found everything in place; the health check
            and the hub go by its age.
        say: Where sentences for an admin go; each once, until another one is due.
    """

    find: Callable[[], Tables]
    tables: tuple[Table, ...]
    flag: Path
    say: Callable[[str], None]
    _kernel: Tables | None = None
    _known: dict[tuple[int, str], tuple[str, ...]] = field(default_factory=dict)
    _said: str = ""

    def look(self) -> bool:
        """See to it that every rule is in place; return whether it is."""
        try:
            if self._kernel is None:
                self._kernel = self.find()
            n_mended = self._mend(self._kernel)
        except FirewallError as error:
            self._kernel = None
            self.flag.unlink(missing_ok=True)
            self._tell(f"the firewall is not in place: {error}")
            return False
        if n_mended:
            self._said = ""
        self._tell("the firewall is in place")
        self.flag.touch()
        return True

    def _mend(self, kernel: Tables) -> int:
        saved = {family: kernel.saved(family) for family in self._families()}
        wrong = [
            table
            for table in self.tables
            if (found := placed(table, saved[table.family])) is None
            or found != self._known.get(table.key)
        ]
        for table in wrong:
            if table.key in self._known:
                self._tell(
                    f"rules in the table {table.name} were not as they were put: mended"
                )
            self._known[table.key] = kernel.place(table)
        return len(wrong)

    def _families(self) -> set[int]:
        return {table.family for table in self.tables}

    def end(self, *, is_used: bool) -> None:
        """Stop watching. While a container is on the bridge its rules stay."""
        self.flag.unlink(missing_ok=True)
        if self._kernel is None:
            return  # its last word was why
        if is_used:
            self.say("the firewall is not watched any more; its rules stay in place")
            return
        for table in self.tables:
            self._kernel.remove(table)
        self.say("no container is left on the servers' network: the rules are removed")

    def _tell(self, sentence: str) -> None:
        if sentence != self._said:
            self.say(sentence)
        self._said = sentence
