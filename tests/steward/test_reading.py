"""The policy file: what it can say, and a sentence for everything that it cannot."""

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom.settings import SettingError
from torchroom.steward import settings
from torchroom.steward.reading import PolicyError, read
from torchroom.steward.rules import AfterHours, Rules

MINUTE = timedelta(minutes=1)
WINDOW = '{days = ["mon"], from = "14:00", to = "16:00", timezone = "Europe/Berlin"}'


def test_the_example_says_the_defaults() -> None:
    policy = read(settings.EXAMPLE.read_text())
    assert policy.rules("", "1-gpu") == Rules()


def test_what_the_example_shows_can_be_used() -> None:
    """Its comments, too."""
    lines = settings.EXAMPLE.read_text().splitlines()
    begin = lines.index('# [size."8-gpu"]')
    shown = [line.removeprefix("#").strip() for line in lines[begin:]]
    policy = read("\n".join(lines[:begin] + shown))
    rules = policy.rules("cs101", "1-gpu")
    assert rules.gpu_idle == 20 * MINUTE
    assert (rules.n_extensions, rules.after_hours) == (0, AfterHours.STOP)
    assert len(rules.windows) == 1
    assert policy.rules("", "8-gpu").several_gpus_idle == 20 * MINUTE


def test_the_narrowest_table_that_has_a_key_counts() -> None:
    policy = read(
        """
        [default]
        idle_minutes = 31
        grace_minutes = 1
        extensions = 1
        cpu_idle_minutes = false
        [size."1-gpu"]
        idle_minutes = 32
        grace_minutes = 2
        extensions = 2
        [course.ml]
        idle_minutes = 33
        grace_minutes = 3
        [course.ml.size."1-gpu"]
        idle_minutes = 34
        """
    )

    def found(course: str, size: str) -> tuple[timedelta | None, timedelta, int]:
        rules = policy.rules(course, size)
        return rules.gpu_idle, rules.grace, rules.n_extensions

    assert found("", "") == (31 * MINUTE, 1 * MINUTE, 1)
    assert found("", "1-gpu") == (32 * MINUTE, 2 * MINUTE, 2)
    assert found("ml", "2-gpu") == (33 * MINUTE, 3 * MINUTE, 1)
    assert found("ml", "1-gpu") == (34 * MINUTE, 3 * MINUTE, 2)
    assert policy.rules("ml", "1-gpu").cpu_idle is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[default", "not TOML"),
        ("x = 1", "the file: 'x' is not known"),
        ("default = 1", "'default' must be a table"),
        ("[default]\nidle = 3", "[default]: 'idle' is not known. Known: cpu_idle"),
        ("[default]\nidle_minutes = 0", "[default]: idle_minutes must be a number"),
        ("[default]\nidle_minutes = true", "idle_minutes must be a number"),
        ("[default]\nidle_minutes = nan", "idle_minutes must be a number"),
        ("[default]\nidle_minutes = inf", "idle_minutes must be a number"),
        (f"[default]\nidle_minutes = {10**400}", "idle_minutes must be a number"),
        ('[default]\nidle_minutes = "5"', "idle_minutes must be a number"),
        (
            "[default]\nidle_minutes = 10",
            "For everybody, idle_minutes is 10; it must be more than 11: users are warn"
            "ed warn_minutes (10) before a stop, and up to a minute earlier.",
        ),
        ("[default]\nmax_age_hours = 0.1", "is 0.1; it must be more than 0.183333"),
        ("[default]\nwarn_minutes = 100", "idle_minutes is 30; it must be more than 1"),
        ("[default]\ndry_run = 1", "dry_run must be true or false"),
        ("[default]\nextensions = -1", "whole number from 0 to 100"),
        ("[default]\nextensions = true", "whole number from 0 to 100"),
        ("[default]\nextension_price = 1", "tokens in quotes"),
        ('[default]\nextension_price = "1.1234567"', "not an amount"),
        ("[default]\nwindows = []", "windows can be set for a whole course only"),
        ("[course.c.size.s]\nafter_hours = 'keep'", "for a whole course only"),
        ("[size]\ncpu = 1", "must be in a table of its own"),
        ('[size." "]\n', "empty name"),
        ("[course.c.size]\nx = 1", "must be in a table of its own"),
        ("[course.c]\nsize = 1", "'size' must be a table"),
        ("[course.c]\nafter_hours = 'stop'", "needs windows"),
        ("[course.c]\nafter_hours = 'never'", 'must be "keep" or "stop"'),
        ("[course.c]\nafter_hours = []", 'must be "keep" or "stop"'),
        ("[course.c]\nwindows = 1", "must be a list like"),
        ("[course.c]\nwindows = [1]", "windows[0] must be a table"),
        ("[course.c]\nwindows = [{}]", "days must be some of mon"),
        ("[course.c]\nwindows = [{days = ['x']}]", "days must be some of mon"),
        ("[course.c]\nwindows = [{days = [['mon']]}]", "days must be some of mon"),
        (f"[course.c]\nwindows = [{WINDOW.replace('14:00', '25:00')}]", "must be a ti"),
        (f"[course.c]\nwindows = [{WINDOW.replace('Berlin', 'X')}]", "a time zone"),
        (f"[course.c]\nwindows = [{WINDOW.replace('Europe/', '../')}]", "a time zone"),
        (f"[course.c]\nwindows = [{WINDOW.replace('to', 'till')}]", "'till' is not"),
        ("[course.c]\nwarn_minutes = 50", "For course 'c', idle_minutes is 30; it m"),
        (
            "[size.s]\nidle_minutes = 20\n[course.c]\nwarn_minutes = 25\n"
            "unwanted_idle_minutes = 27",
            "For course 'c' and size 's', idle_minutes is 20; it must be more than 26",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, says: str) -> None:
    with pytest.raises(PolicyError) as error:
        read(text)
    assert says in str(error.value)


values = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=2),
)
keys = st.sampled_from(
    ["idle_minutes", "windows", "after_hours", "extension_price", "dry_run", "x"]
)


@given(st.dictionaries(keys, values, max_size=3))
def test_nothing_else_is_raised(table: dict[str, object]) -> None:
    def shown(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return f"[{', '.join(map(shown, value))}]"
        if isinstance(value, str):
            return "'" + "".join(c for c in value if c.isalnum()) + "'"
        return str(value)

    lines = [f"{key} = {shown(value)}" for key, value in table.items()]
    with contextlib.suppress(PolicyError):
        read("\n".join(["[course.c]", *lines]))


def test_a_file_of_a_windows_editor_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xef\xbb\xbf[default]\r\nidle_minutes = 25\r\n")
    assert settings.policy_of(path).rules("", "").gpu_idle == 25 * MINUTE


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"\xff\xfe")
    for path in (bad, tmp_path / "none.toml", tmp_path):
        with pytest.raises(SettingError, match=str(path)):
            settings.policy_of(path)
