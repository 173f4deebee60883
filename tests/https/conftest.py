"""What the tests of https share."""

import pytest
from testbed.certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs certificates that only these tests' clients trust."""
    return Authority.make(tmp_path_factory.mktemp("authority"))
