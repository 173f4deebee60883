"""Settings and the local login of the application around the hub."""

import json
import stat
from pathlib import Path

import pytest
from torchroom import login, pages, settings


def test_passwords_are_generated_once_and_kept_private(tmp_path: Path) -> None:
    """A second call returns the same; nobody else can read the file."""
    first = login.local_login(tmp_path)
    assert login.local_login(tmp_path) == first
    path = tmp_path / login.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first.user_password) >= 12
    assert len(first.admin_password) >= 32  # JupyterHub's own minimum


@pytest.mark.parametrize("text", ["", "nonsense", "[]", json.dumps({"a": 1})])
def test_a_damaged_password_file_is_not_replaced_silently(
    tmp_path: Path, text: str
) -> None:
    """It says what to do; nobody's password changes behind their back."""
    (tmp_path / login.FILE).write_text(text)
    with pytest.raises(login.LoginFileError, match="Delete it and restart"):
        login.local_login(tmp_path)
    assert (tmp_path / login.FILE).read_text() == text


def test_bad_settings_are_named() -> None:
    """Each error says which variable and what it may be."""
    with pytest.raises(settings.SettingError, match="TORCHROOM_USER_IMAGE is not set"):
        settings.read({})
    good = {"TORCHROOM_USER_IMAGE": "image"}
    assert settings.read(good).gpu_driver == "auto"
    with pytest.raises(settings.SettingError, match="auto or nvidia or cdi"):
        settings.read({**good, "TORCHROOM_GPU_DRIVER": "amd"})
    with pytest.raises(settings.SettingError, match="whole number"):
        settings.read({**good, "TORCHROOM_SIMULATED_GPUS": "-1"})


def test_simulated_gpus_are_announced_and_real_ones_need_no_banner() -> None:
    """The banner stands on every page."""
    assert "simulated" in pages.announcement(4)
    assert pages.announcement(0) == ""
