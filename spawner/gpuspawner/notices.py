"""What users are still to be told about their servers, by lease."""

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from gpuspawner.exits import Exit

MESSAGES_MAX = 50


@dataclass
class Notices:
    """Why the hub ended leases, and messages for those that go on.

    Attributes:
        endings: Lease id -> why we ended it, until its spawner has asked.
        messages: Lease id -> all texts for its user, the oldest first.
        n_delivered: Lease id -> how many of them the user has.
    """

    endings: dict[str, Exit] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)
    n_delivered: dict[str, int] = field(default_factory=dict)

    def tell(self, lease_id: str, text: str) -> None:
        """Add a message; of very many the oldest are forgotten."""
        texts = self.messages.setdefault(lease_id, [])
        texts.append(text)
        if len(texts) > MESSAGES_MAX:
            del texts[0]
            delivered = self.n_delivered.get(lease_id, 0)
            self.n_delivered[lease_id] = max(0, delivered - 1)

    def news_for(self, lease_id: str) -> list[str]:
        """Return all messages if one of them is new, else none.

        The note in the user's home is written anew each time, and an older message may
        not have been read yet.
        """
        texts = self.messages.get(lease_id, [])
        has_news = len(texts) > self.n_delivered.get(lease_id, 0)
        return list(texts) if has_news else []

    def keep(self, lease_ids: Set[str]) -> None:
        """Forget what nobody will ask for: everything but these leases'."""
        self.endings = {k: v for k, v in self.endings.items() if k in lease_ids}
        self.messages = {k: v for k, v in self.messages.items() if k in lease_ids}
        self.n_delivered = {k: v for k, v in self.n_delivered.items() if k in lease_ids}

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            "endings": {key: asdict(ended) for key, ended in self.endings.items()},
            "messages": {key: list(texts) for key, texts in self.messages.items()},
            "n_delivered": dict(self.n_delivered),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` described.

        Raises:
            ValueError: The value is not from there.
        """
        try:
            return cls(
                {
                    str(key): Exit.from_json(row)
                    for key, row in data.get("endings", {}).items()
                },
                {
                    str(key): [str(text) for text in texts]
                    for key, texts in data.get("messages", {}).items()
                },
                {str(key): int(n) for key, n in data.get("n_delivered", {}).items()},
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"these are not notices: {error!r}") from error
