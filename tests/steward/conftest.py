"""A steward on a hub that is a script."""

from pathlib import Path

import pytest
from steward.lab import Room


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """With the default policy, and an empty store."""
    return Room(tmp_path)
