"""The file is always whole: the old content or the new, whatever happens in between."""

import errno
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpuspawner.errors import StoreFailed
from gpuspawner.store import JsonStore
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "health.json"


def test_nothing_was_saved_yet(path: Path) -> None:
    """A new hub starts without a file, and without a word."""
    assert JsonStore(path).load() is None


def test_what_was_saved_is_loaded_by_the_next_hub(path: Path) -> None:
    """Names of people keep their letters."""
    data = {"user": "Zoë", "n": 2**60, "x": [1.5, None, True]}
    JsonStore(path).save(data)
    assert JsonStore(path).load() == data


def test_only_the_hubs_user_may_read_it(path: Path) -> None:
    """It says who used which GPU; a looser file is tightened."""
    new = path.with_name("health.json.new")
    new.touch(0o644)
    JsonStore(path).save({"a": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_same_again_is_not_written(path: Path) -> None:
    """Neither by the hub that saved it nor by the one that loaded it."""
    store = JsonStore(path)
    store.save({"a": 1, "b": 2})
    os.utime(path, (0, 0))
    store.save({"b": 2, "a": 1})
    again = JsonStore(path)
    again.save(again.load() or {})
    assert path.stat().st_mtime == 0
    store.save({"a": 2})
    assert path.stat().st_mtime > 0


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000, b"\0" * 4096]
)
def test_a_damaged_file_is_put_aside_and_said(
    path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost for whoever wants to look, and the hub starts."""
    path.write_bytes(damage)
    store = JsonStore(path)
    with caplog.at_level(logging.ERROR):
        assert store.load() is None
    (aside,) = path.parent.glob("health.json.damaged-*")
    assert aside.read_bytes() == damage
    assert str(aside) in caplog.text
    store.save({"a": 1})
    assert JsonStore(path).load() == {"a": 1}


def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(path: Path) -> None:
    """It stays where it is."""
    path.mkdir()
    with pytest.raises(StoreFailed, match=r"health\.json cannot be read"):
        JsonStore(path).load()
    assert path.is_dir()


def test_a_missing_folder_is_said(path: Path) -> None:
    """The caller logs the sentence and goes on."""
    with pytest.raises(StoreFailed, match="cannot be written"):
        JsonStore(path.parent / "nowhere" / "x.json").save({})


def test_what_is_no_json_is_refused_and_the_old_content_stays(path: Path) -> None:
    """No number that another program could not read."""
    store = JsonStore(path)
    store.save({"a": 1})
    for wrong in (float("nan"), object()):
        with pytest.raises(StoreFailed):
            store.save({"a": wrong})
    assert JsonStore(path).load() == {"a": 1}


@pytest.mark.parametrize("step", ["open", "fchmod", "fsync", "replace"])
def test_a_full_disk_at_any_step_leaves_the_old_content_and_the_next_save_works(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one of ours, and it is tried again although the data is the same."""
    store = JsonStore(path)
    store.save({"a": 1})

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(StoreFailed, match="No space left on device"):
            store.save({"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    store.save({"a": 2})
    assert JsonStore(path).load() == {"a": 2}


WITHOUT_ROOM = """
import resource, signal, sys
from pathlib import Path
from gpuspawner.errors import StoreFailed
from gpuspawner.store import JsonStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
store = JsonStore(Path(sys.argv[1]))
try:
    store.save({"pad": "x" * 100_000})
except StoreFailed as error:
    print(error)
"""


def test_a_write_that_the_kernel_cuts_short_leaves_the_old_content(path: Path) -> None:
    """Not a mock: the process may write 4 KiB and wants more."""
    JsonStore(path).save({"a": 1})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOM, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "cannot be written" in done.stdout
    assert JsonStore(path).load() == {"a": 1}


SAVES_FOR_EVER = """
import itertools, sys
from pathlib import Path
from gpuspawner.store import JsonStore
store = JsonStore(Path(sys.argv[1]))
for n in itertools.count():
    store.save({"n": n, "pad": [n] * 20_000})
    print(n, flush=True)
"""


def test_a_hub_killed_while_it_saves_leaves_a_whole_file(path: Path) -> None:
    """Kill -9 at whatever step it is in, after more and more saves."""
    for n_lines in range(1, 13):
        with subprocess.Popen(
            [sys.executable, "-c", SAVES_FOR_EVER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout
            for _ in range(n_lines):
                said = child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            child.wait(timeout=60)
        found = JsonStore(path).load()
        assert found is not None
        assert found["n"] >= int(said)
        assert found["pad"] == [found["n"]] * 20_000
        assert {p.name for p in path.parent.iterdir()} <= {
            "health.json",
            "health.json.new",
        }


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), JSON))
def test_any_json_object_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    """Including names that no file system would take."""
    path = tmp_path_factory.mktemp("store") / "x.json"
    JsonStore(path).save(data)
    assert JsonStore(path).load() == data
