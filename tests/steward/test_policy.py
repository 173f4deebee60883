"""What is done with one server: every reason, and what holds whatever is the case."""

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steward.lab import (
    HOUR,
    LONG_AGO,
    MINUTE,
    NOW,
    cpu_server,
    gpu_server,
    idle_server,
)
from torchroom.steward.model import (
    Extension,
    GpuUse,
    Judgement,
    Reason,
    Server,
    Told,
    Use,
    Verdict,
)
from torchroom.steward.policy import judge
from torchroom.steward.rules import AfterHours, Rules
from torchroom.steward.windows import Window

RULES = Rules()
ALWAYS_OVER = Window(frozenset(range(7)), NOW.time().replace(hour=8),
                     NOW.time().replace(hour=11), ZoneInfo("UTC"))  # fmt: skip
CLOSED = replace(RULES, windows=(ALWAYS_OVER,), after_hours=AfterHours.STOP)


def when_told(
    server: Server, rules: Rules, taken: list[Extension] | None = None
) -> Judgement:
    """What becomes of a server at a moment of which its user was warned in time."""
    tolds = [Told("ls_1", reason, NOW - 10 * MINUTE, NOW) for reason in Reason]
    found = [judge(server, rules, taken or [], NOW, told) for told in tolds]
    return next((each for each in found if each.verdict is Verdict.STOP), found[0])


def extension(until: datetime, k: int = 1) -> Extension:
    return Extension(k, 30 * MINUTE, NOW, until)


class TestIdleGpu:
    """A GPU that computes nothing."""

    @pytest.mark.parametrize(
        ("minutes", "verdict"), [(0, "keep"), (18, "keep"), (19, "warn"), (29, "warn")]
    )
    def test_it_is_warned_ten_minutes_before(self, minutes: int, verdict: str) -> None:
        judged = judge(idle_server(minutes * MINUTE), RULES, [], NOW)
        assert judged.verdict == verdict
        left = 30 - min(minutes, 20)  # nobody warned them in time
        assert judged.stops_at == NOW + left * MINUTE

    def test_it_is_stopped_when_it_was_told(self) -> None:
        told = Told("ls_1", Reason.IDLE, NOW - 10 * MINUTE, NOW)
        judged = judge(idle_server(30 * MINUTE), RULES, [], NOW, told)
        assert (judged.verdict, judged.reason) == (Verdict.STOP, Reason.IDLE)
        assert judged.sentence == (
            "Your last server stopped: its GPU computed nothing for 30 minutes. "
            "Your files are kept; start it again when you need it."
        )

    def test_whoever_was_not_warned_is_warned_first(self) -> None:
        """After an outage, or a stricter policy."""
        judged = judge(idle_server(5 * HOUR), RULES, [], NOW)
        assert (judged.verdict, judged.stops_at) == (Verdict.WARN, NOW + 10 * MINUTE)

    def test_a_warning_of_an_earlier_idleness_does_not_count(self) -> None:
        """The steward was away meanwhile."""
        told = Told("ls_1", Reason.IDLE, NOW - 9 * HOUR, NOW - 9 * HOUR + 10 * MINUTE)
        judged = judge(idle_server(5 * HOUR), RULES, [], NOW, told)
        assert (judged.verdict, judged.stops_at) == (Verdict.WARN, NOW + 10 * MINUTE)

    def test_nor_does_one_for_another_reason(self) -> None:
        """Their tokens were to end; they bought some; the GPU was idle all the time."""
        told = Told("ls_1", Reason.TOKENS, NOW - 11 * MINUTE, NOW - MINUTE)
        judged = judge(idle_server(31 * MINUTE), RULES, [], NOW, told)
        assert (judged.reason, judged.stops_at) == (Reason.IDLE, NOW + 10 * MINUTE)

    def test_several_gpus_may_wait_longer(self) -> None:
        judged = judge(idle_server(45 * MINUTE, n_slots=2), RULES, [], NOW)
        assert judged.stops_at == NOW + 15 * MINUTE

    def test_a_young_server_is_not_stopped_as_idle(self) -> None:
        rules = replace(RULES, gpu_idle=11 * MINUTE)
        server = idle_server(12 * MINUTE, ready_at=NOW - 12 * MINUTE)
        assert judge(server, rules, [], NOW).stops_at == NOW + 18 * MINUTE

    def test_activity_in_the_browser_does_not_keep_it(self) -> None:
        server = idle_server(30 * MINUTE, last_activity=NOW)
        assert when_told(server, RULES).verdict is Verdict.STOP

    def test_a_site_can_switch_it_off(self) -> None:
        rules = replace(RULES, gpu_idle=None)
        assert when_told(idle_server(50 * HOUR), rules).stops_at is None

    def test_its_user_reads_what_to_do(self) -> None:
        judged = judge(idle_server(20 * MINUTE), RULES, [], NOW)
        assert judged.sentence == (
            "The GPU of this server has computed nothing for 20 minutes. This server "
            "stops in 10 minutes. Your files are kept; what is only in memory is lost. "
            "To keep it, compute on the GPU or extend it."
        )


class TestExtensions:
    """What users may add."""

    def test_one_moves_the_end(self) -> None:
        server = idle_server(29 * MINUTE)
        judged = when_told(server, RULES, [extension(NOW + 31 * MINUTE)])
        assert (judged.verdict, judged.stops_at) == (Verdict.KEEP, NOW + 31 * MINUTE)

    def test_there_are_so_many(self) -> None:
        taken = [extension(LONG_AGO, 1), extension(LONG_AGO, 2)]
        server = idle_server(25 * MINUTE)
        assert judge(server, RULES, taken[:1], NOW).can_extend
        assert not judge(server, RULES, taken, NOW).can_extend

    def test_none_is_sold_that_something_else_would_cut_short(self) -> None:
        server = idle_server(20 * MINUTE, tokens_end_at=NOW + 20 * MINUTE)
        assert not judge(server, RULES, [], NOW).can_extend
        richer = replace(server, tokens_end_at=NOW + 70 * MINUTE)
        assert judge(richer, RULES, [], NOW).can_extend

    def test_nor_one_whose_price_would(self) -> None:
        """What it costs is not there to run on; as much again must be left."""
        server = idle_server(20 * MINUTE, tokens_end_at=NOW + 41 * MINUTE)
        assert not judge(server, RULES, [], NOW).can_extend
        assert judge(server, replace(RULES, extend_price=0), [], NOW).can_extend

    def test_the_hours_of_a_course_cannot_be_extended(self) -> None:
        judged = judge(gpu_server(course="c"), CLOSED, [extension(NOW + HOUR)], NOW)
        assert (judged.reason, judged.can_extend) == (Reason.WINDOW_OVER, False)


class TestMaximumAge:
    """How long a server may run."""

    RULES = replace(RULES, max_age=12 * HOUR)

    def test_a_busy_gpu_goes_on(self) -> None:
        assert when_told(gpu_server(), self.RULES).verdict is Verdict.KEEP

    def test_it_ends_once_it_is_idle(self) -> None:
        judged = when_told(idle_server(15 * MINUTE), self.RULES)
        assert (judged.verdict, judged.reason) == (Verdict.STOP, Reason.MAX_AGE)

    def test_a_pause_of_a_training_is_no_end(self) -> None:
        judged = judge(idle_server(3 * MINUTE), self.RULES, [], NOW)
        assert judged.verdict is Verdict.KEEP

    def test_the_warning_says_how_old_it_may_become(self) -> None:
        server = cpu_server(MINUTE, started_at=NOW - 12 * HOUR + 5 * MINUTE)
        judged = judge(server, self.RULES, [], NOW)
        assert judged.sentence.startswith("It may run for 12 hours in all. This server")

    def test_a_site_can_stop_busy_ones_too(self) -> None:
        rules = replace(self.RULES, max_age_stops_busy=True)
        judged = when_told(gpu_server(), rules)
        assert (judged.verdict, judged.reason) == (Verdict.STOP, Reason.MAX_AGE)


class TestHealth:
    """GPUs that have to be repaired."""

    def test_a_training_on_a_sick_gpu_goes_on(self) -> None:
        server = gpu_server(health="quarantined", health_why="Xid 63")
        judged = when_told(server, RULES)
        assert (judged.verdict, judged.stops_at) == (Verdict.WARN, None)
        assert judged.sentence == (
            "A GPU of this server is taken out of service: Xid 63. What runs on it may "
            "end first; then this server stops. Save your work."
        )

    def test_it_ends_once_it_is_idle(self) -> None:
        server = idle_server(15 * MINUTE, health="draining")
        judged = when_told(server, RULES)
        assert (judged.verdict, judged.reason) == (Verdict.STOP, Reason.HEALTH)

    def test_an_extension_does_not_put_off_the_repair(self) -> None:
        server = idle_server(15 * MINUTE, health="draining")
        judged = when_told(server, RULES, [extension(NOW + HOUR)])
        assert (judged.verdict, judged.reason) == (Verdict.STOP, Reason.HEALTH)
        assert not judge(server, RULES, [], NOW).can_extend

    def test_a_gpu_that_is_watched_is_used(self) -> None:
        server = gpu_server(health="probation")
        assert judge(server, RULES, [], NOW).verdict is Verdict.KEEP


class TestTokens:
    """Tokens that are used up."""

    def test_it_is_counted_down_and_left_to_the_meter(self) -> None:
        server = gpu_server(tokens_end_at=NOW + 7 * MINUTE)
        judged = judge(server, RULES, [], NOW)
        assert (judged.verdict, judged.reason) == (Verdict.WARN, Reason.TOKENS)
        assert "in 7 minutes" in judged.sentence
        over = replace(server, tokens_end_at=NOW - MINUTE)
        assert when_told(over, RULES).verdict is Verdict.KEEP


class TestHours:
    """The hours of a course."""

    def test_when_they_are_over_busy_servers_end_too(self) -> None:
        judged = when_told(gpu_server(course="c"), CLOSED)
        assert (judged.verdict, judged.reason) == (Verdict.STOP, Reason.WINDOW_OVER)

    def test_they_are_warned_before(self) -> None:
        at = NOW.replace(hour=10, minute=50)
        judged = judge(gpu_server(course="c"), CLOSED, [], at)
        assert judged.verdict is Verdict.WARN
        assert judged.stops_at == NOW.replace(hour=11)

    def test_a_course_that_keeps_its_servers_keeps_them(self) -> None:
        rules = replace(CLOSED, after_hours=AfterHours.KEEP)
        assert when_told(gpu_server(), rules).verdict is Verdict.KEEP


class TestCpu:
    """Servers without a GPU."""

    def test_an_idle_one_is_warned_and_stopped(self) -> None:
        warned = judge(cpu_server(80 * MINUTE), RULES, [], NOW)
        stopped = when_told(cpu_server(90 * MINUTE), RULES)
        assert (warned.verdict, warned.reason) == (Verdict.WARN, Reason.CPU_IDLE)
        assert (stopped.verdict, stopped.reason) == (Verdict.STOP, Reason.CPU_IDLE)

    def test_its_age_counts_although_it_is_active(self) -> None:
        rules = replace(RULES, max_age=HOUR)
        judged = when_told(cpu_server(MINUTE), rules)
        assert (judged.verdict, judged.reason) == (Verdict.STOP, Reason.MAX_AGE)


# -- whatever is the case ------------------------------------------------------------

spans = st.integers(0, 3 * 24 * 3600).map(lambda s: timedelta(seconds=s))
moments = spans.map(lambda span: NOW - span + timedelta(days=1))
windows = st.builds(
    Window,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.times(),
    st.times(),
    st.sampled_from([ZoneInfo("UTC"), ZoneInfo("Europe/Berlin")]),
)
some_rules = st.builds(
    Rules,
    gpu_idle=st.none() | spans,
    several_gpus_idle=st.none() | spans,
    grace=spans,
    unwanted_idle=spans,
    warn_before=spans,
    max_age=st.none() | spans,
    max_age_stops_busy=st.booleans(),
    cpu_idle=st.none() | spans,
    extend_by=spans,
    n_extensions=st.integers(0, 3),
    windows=st.lists(windows, max_size=2).map(tuple),
    after_hours=st.sampled_from(AfterHours),
)
uses = st.builds(
    GpuUse, st.sampled_from(Use), st.none() | moments, st.just(""), st.integers(1, 4)
)
servers = st.builds(
    Server,
    st.just("ls_1"),
    st.just("alice"),
    st.just(""),
    st.just("1-gpu"),
    st.just("c"),
    ready_at=moments,
    last_activity=st.none() | moments,
    started_at=st.none() | moments,
    gpu=st.none() | uses,
    health=st.sampled_from(["healthy", "probation", "draining", "quarantined", "?"]),
    tokens_end_at=st.none() | moments,
)
tolds = st.none() | st.builds(
    Told, st.just("ls_1"), st.sampled_from(Reason), moments, st.none() | moments
)
extensions = st.lists(moments.map(extension), max_size=3)


@given(servers, some_rules, extensions, tolds, uses)
def test_a_gpu_that_is_not_idle_is_never_stopped_for_being_idle(
    server: Server, rules: Rules, taken: list[Extension], told: Told | None, use: GpuUse
) -> None:
    """I9: whatever else is the case, only its hours or an age that says so end it."""
    if use.state is Use.IDLE:
        use = replace(use, state=Use.UNKNOWN)
    judged = judge(replace(server, gpu=use), rules, taken, NOW, told)
    if judged.verdict is Verdict.STOP:
        assert judged.reason is Reason.WINDOW_OVER or (
            judged.reason is Reason.MAX_AGE and rules.max_age_stops_busy
        )


@given(servers, some_rules, extensions, tolds)
def test_nobody_is_stopped_without_a_warning(
    server: Server, rules: Rules, taken: list[Extension], told: Told | None
) -> None:
    judged = judge(server, rules, taken, NOW, told)
    if judged.verdict is Verdict.STOP and rules.warn_before > timedelta():
        assert told is not None
        assert (told.reason, told.stops_at) == (judged.reason, judged.stops_at)
        assert judged.stops_at is not None
        assert judged.stops_at <= NOW


@given(servers, some_rules, extensions, tolds, moments)
def test_an_extension_never_shortens(
    server: Server,
    rules: Rules,
    taken: list[Extension],
    told: Told | None,
    until: datetime,
) -> None:
    """And within it nothing that can be extended stops the server."""
    before = judge(server, rules, taken, NOW, told)
    after = judge(server, rules, [*taken, extension(until, 9)], NOW, told)
    if before.stops_at is not None and after.stops_at is not None:
        assert after.stops_at >= before.stops_at
    if before.verdict is not Verdict.STOP:
        assert after.verdict is not Verdict.STOP
    if after.verdict is Verdict.STOP and until > NOW:
        assert after.reason in {Reason.HEALTH, Reason.WINDOW_OVER}


@given(servers, some_rules, extensions, tolds)
def test_tokens_are_never_the_stewards_reason_to_stop(
    server: Server, rules: Rules, taken: list[Extension], told: Told | None
) -> None:
    judged = judge(server, rules, taken, NOW, told)
    assert judged.verdict is not Verdict.STOP or judged.reason is not Reason.TOKENS


@given(servers, some_rules, extensions, tolds)
def test_what_it_says_fits_what_it_does(
    server: Server, rules: Rules, taken: list[Extension], told: Told | None
) -> None:
    judged = judge(server, rules, taken, NOW, told)
    if judged.verdict is Verdict.KEEP:
        assert not judged.sentence
        return
    assert judged.reason is not None
    assert judged.sentence.endswith(".")
    assert "  " not in judged.sentence
    assert not (judged.can_extend and len(taken) >= rules.n_extensions)


@given(servers, some_rules, spans)
def test_a_promised_time_is_kept(
    server: Server, rules: Rules, later: timedelta
) -> None:
    """Who was told a time is never stopped before it, if nothing new is found."""
    first = judge(server, rules, [], NOW)
    if first.verdict is not Verdict.WARN or first.stops_at is None:
        return
    told = Told("ls_1", first.reason or Reason.IDLE, NOW, first.stops_at)
    then = NOW + later
    again = judge(server, rules, [], then, told)
    if again.verdict is Verdict.STOP:
        assert then >= first.stops_at
