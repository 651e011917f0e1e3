"""Three ways to an alarm: what each announces and how soon, what none does, what a restart keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from echo_stream.alarm.past import Passed
from echo_stream.alarm.ways import SETTLED_S, STATE_S, WITHOUT_CHANGE_S, Levels, Timing, Ways
from echo_stream.core.types import AlarmPath

RATE, HOP_S, WINDOW_S = 100, 1.0, 2.0
LEVELS = Levels(strong=20.0, clear=18.0, floor=2.0, per_month=1.0)
TIMING = Timing(RATE, HOP_S, on_delay_s=7.0, off_delay_s=6.0, dead_band=0.1)
MINUTE, HOUR = 60, 3600


def normal(windows: int, seed: int = 0, spread: float = 0.3, middle: float = 0.0) -> list[float]:
    values: list[float] = np.random.default_rng(seed).normal(middle, spread, windows).tolist()
    return values


class Life:
    """A machine that is listened to: scores in, activations out."""

    def __init__(self, levels: Levels = LEVELS, ways: Ways | None = None) -> None:
        self.ways = ways or Ways(levels, TIMING)
        self.n = 0

    def hear(self, scores: Sequence[float], state: str = "") -> list[tuple[float, AlarmPath | None]]:
        """Seconds from the end of the first of these windows to each announcement, and by which way."""
        found: list[tuple[float, AlarmPath | None]] = []
        for i, score in enumerate(scores):
            was, start = self.ways.active, round(self.n * HOP_S * RATE)
            self.ways.step(score, start, start + round(WINDOW_S * RATE), state)
            if self.ways.renewed or (self.ways.active and not was):
                found.append((i * HOP_S, self.ways.path))
            self.n += 1
        return found

    def lose(self, seconds: float) -> None:
        self.n += round((WINDOW_S + seconds) / HOP_S)


@pytest.fixture
def life() -> Life:
    found = Life()
    assert found.hear(normal(3 * MINUTE)) == []
    return found


def test_far_over_everything_is_strong_after_the_on_delay(life: Life) -> None:
    assert life.hear([100.0] * 30) == [(7.0, AlarmPath.STRONG)]
    assert "from 0." in life.ways.why()
    assert life.ways.trip == LEVELS.strong


def test_a_step_is_announced_after_10_s_below_the_strong_level(life: Life) -> None:
    assert life.hear([5.0] * 30) == [(10.0, AlarmPath.STEP)]
    assert 2.0 <= life.ways.trip < 5.0
    assert life.ways.onset == (3 * MINUTE - 1) * RATE + round(WINDOW_S * RATE)
    life.hear(normal(30))
    assert not life.ways.active
    assert life.ways.onset is None


def test_one_window_like_the_bank_is_past_enough() -> None:
    life = Life()
    assert life.hear([1.0]) == []
    assert life.hear([30.0] * 20) == [(7.0, AlarmPath.STRONG)]
    stranger = Life()
    assert stranger.hear([3.0]) == stranger.hear([30.0] * 20) == []


@pytest.mark.parametrize("length", [5, 7, 10])
def test_what_passes_sooner_is_nothing_and_joins_the_past(life: Life, length: int) -> None:
    assert life.hear([5.0] * length + normal(60)) == []
    assert life.ways.step_way.ceiling.level < 5.0


def passes(life: Life, length: int, score: float = 50.0) -> list[AlarmPath | None]:
    """Ways by which a sound is announced that lasts so many windows and ends by itself."""
    return [path for _, path in life.hear([score] * length + normal(5 * MINUTE))]


def test_what_comes_and_goes_by_itself_three_times_is_waited_for(life: Life) -> None:
    assert [passes(life, 12) for _ in range(3)] == [[AlarmPath.STRONG]] * 3
    assert life.ways.held == 0
    assert passes(life, 12) == []
    assert life.ways.held == 1
    assert life.ways.step_way.ceiling.level < 5.0, "what passes does not make the machine deaf"
    assert passes(life, 17) == []
    assert life.hear([50.0] * 40) == [(18.0, AlarmPath.STRONG)]
    life.hear(normal(5 * MINUTE))
    assert life.hear([5.0] * 40) == [(18.0, AlarmPath.STEP)]
    assert "for 18 s" in life.ways.why()
    assert life.ways.held == 4, "17 s were held, then two alarms until they were long enough; once each"


def test_a_fault_waits_for_what_passes_no_longer_than_30_s(life: Life) -> None:
    for length in (20, 20, 20, 35, 35, 35):
        assert passes(life, length) == [AlarmPath.STRONG]
    assert life.hear([50.0] * 60) == [(30.0, AlarmPath.STRONG)]


def test_what_passes_is_forgotten_after_a_week_without_it() -> None:
    passed = Passed(3600.0)
    for length_s in (12.0, 14.0, 5.0):
        passed.add(length_s)
    assert (passed.wait_s, passed.count) == (7.5, 1)
    for _ in range(7 * 24 + 1):
        passed.hear()
    assert passed.wait_s == 0.0


def test_faults_that_were_confirmed_go_on_being_alarms(life: Life) -> None:
    for n in range(6):
        life.ways.passed.now_s = 1000.0 * n  # also after the restart: UTC, not samples
        assert passes(life, 12) == [AlarmPath.STRONG], n
        life = restarted(life)
        life.ways.passed.drop(1000.0 * n - 5.0, 1000.0 * n - 5.0)
        life.hear(normal(3 * MINUTE))
    life.ways.passed.drop(9000.0, 9000.0)  # said while it still stands
    for _ in range(3):
        life.ways.passed.now_s = 9010.0
        assert passes(life, 12) == [AlarmPath.STRONG]
    for n in range(3):
        life.ways.passed.now_s = 20_000.0 + 1000.0 * n
        assert passes(life, 12) == [AlarmPath.STRONG]
    life.ways.passed.drop(0.0, 19_000.0)
    assert passes(life, 12) == [], "what nobody called a fault counts"


def test_what_passes_is_known_after_a_restart_and_with_another_bank(life: Life) -> None:
    for _ in range(3):
        passes(life, 12)
    for same_bank in (True, False):
        again = restarted(life, same_bank=same_bank)
        again.hear(normal(3 * MINUTE))
        assert passes(again, 12) == []
    old = {key: value for key, value in life.ways.to_json().items() if key != "passed"}
    again = Life()
    again.ways.restore(old, active=False, onset=None)
    assert passes(again, 12) == [AlarmPath.STRONG], "an earlier version saved none"


def test_within_what_held_out_sound_held_nothing_is_a_step(life: Life) -> None:
    assert life.hear([1.9] * 60) == []


def test_a_restless_machine_must_leave_its_own_restlessness() -> None:
    life = Life()
    life.hear(normal(3 * MINUTE, spread=2.0))
    assert life.hear([6.0] * 30) == []
    assert [path for _, path in life.hear(normal(2 * MINUTE, 1, 2.0) + [15.0] * 30)] == [AlarmPath.STEP]


def test_a_ramp_is_no_step_and_an_alarm_after_ten_minutes_over_twice_the_strong_level(life: Life) -> None:
    ramp = np.linspace(0, 60, 20 * MINUTE).tolist()
    assert life.hear(ramp) == []
    ((at_s, path),) = life.hear([60.0] * 10 * MINUTE)
    assert path is AlarmPath.STRONG
    assert at_s < WITHOUT_CHANGE_S
    assert "without a change" in life.ways.why()


def test_another_take_that_lies_over_the_strong_level_is_no_alarm() -> None:
    """Four cars, 220 s enrolled: in another take normal idle held 7 to 17, up and down, for minutes."""
    t_s = np.arange(30 * MINUTE)
    warm_up = 12 - 5 * np.cos(2 * np.pi * t_s / 420) + np.array(normal(len(t_s), 5))
    assert Life(Levels(strong=9.0, clear=8.0, floor=2.0, per_month=1.0)).hear(warm_up.tolist()) == []


def test_a_bank_of_another_day_is_an_alarm_after_ten_minutes_and_a_change_on_top_at_once() -> None:
    life = Life()
    assert life.hear(normal(5 * MINUTE, spread=2.0, middle=130.0)) == []
    assert life.hear([200.0] * 30) == [(7.0, AlarmPath.STRONG)]
    life.hear(normal(2 * MINUTE, 2, 2.0))
    assert not life.ways.active


def test_a_machine_that_was_broken_from_the_start_does_not_blind_the_step_after_its_repair() -> None:
    life = Life()
    broken = life.hear(normal(11 * MINUTE, spread=3.0, middle=60.0))
    assert broken == [(WITHOUT_CHANGE_S, AlarmPath.STRONG)]
    life.hear(normal(3 * MINUTE))
    assert not life.ways.active
    assert life.hear([30.0] * 30) == [(7.0, AlarmPath.STRONG)]


def test_a_new_change_while_the_alarm_stands_is_announced_again(life: Life) -> None:
    life.hear([5.0] * 20)
    settled = life.hear(normal(round(SETTLED_S) + 60, 3, 0.3, 5.0))
    assert settled == []
    assert life.hear([15.0] * 30) == [(10.0, AlarmPath.STEP)]
    assert life.hear(normal(2 * MINUTE, 4, 0.3, 15.0)) == []
    assert [path for _, path in life.hear([40.0] * 30)] == [AlarmPath.STEP]
    life.hear([5.0] * 30)
    assert life.ways.active  # the first change still stands
    life.hear(normal(30))
    assert not life.ways.active


def test_what_stands_does_not_become_the_past(life: Life) -> None:
    life.hear([5.0] * 30 * MINUTE)
    life.hear(normal(2 * MINUTE))
    assert life.hear([5.0] * 30) == [(10.0, AlarmPath.STEP)]


def test_lost_sound_drops_what_is_pending_and_keeps_what_stands(life: Life) -> None:
    life.hear([5.0] * 6)
    life.lose(5.0)
    assert life.hear([5.0] * 20) == [(10.0, AlarmPath.STEP)]
    life.lose(60.0)
    life.hear([5.0])
    assert life.ways.active


def test_a_slow_shift_within_the_bounds_of_the_bank_is_found_in_minutes() -> None:
    life = Life()
    assert life.hear(normal(3 * HOUR, spread=0.3)) == []
    ((at_s, path),) = life.hear(normal(HOUR, 1, 0.3, 1.0))
    assert path is AlarmPath.SLOW
    assert at_s <= 5 * MINUTE
    onset = life.ways.onset
    assert onset is not None
    assert abs(onset / RATE - 3 * HOUR) < 90
    assert "instead of" in life.ways.why()
    life.hear(normal(10 * MINUTE, 2))
    assert not life.ways.active


def test_a_creep_is_an_advisory_and_no_alarm() -> None:
    life = Life()
    life.hear(normal(6 * HOUR))
    creep = np.linspace(0, 1.5, 12 * HOUR) + np.random.default_rng(1).normal(0, 0.3, 12 * HOUR)
    assert life.hear(creep.tolist()) == []
    found = life.ways.creeping
    assert found is not None
    assert found.onset is not None
    assert found.onset > 6 * HOUR * RATE
    life.hear(normal(HOUR, 2))
    assert life.ways.creeping is None


def test_what_is_higher_after_a_night_is_an_advisory_until_the_day_has_begun() -> None:
    for hours, alarmed in ((1, True), (9, False)):
        life = Life()
        life.hear(normal(3 * HOUR))
        life.lose(hours * HOUR)
        found = [path for _, path in life.hear(normal(HOUR, 1, 0.3, 1.0))]
        assert found == ([AlarmPath.SLOW] if alarmed else [])
        assert (life.ways.creeping is not None) is not alarmed
    life = Life()
    life.hear(normal(3 * HOUR))
    life.lose(9 * HOUR)
    life.hear(normal(HOUR, 3))
    assert [path for _, path in life.hear(normal(HOUR, 4, 0.3, 1.0))] == [AlarmPath.SLOW]


def test_each_operating_state_has_its_own_minutes() -> None:
    life = Life()
    states = {"idle": -1.0, "load": 1.0}
    for _ in range(4):
        for state, middle in states.items():
            assert life.hear(normal(HOUR, 1, 0.3, middle), state) == []
    assert life.hear(normal(HOUR, 2, 0.3, 1.0), "load") == []
    assert [path for _, path in life.hear(normal(HOUR, 3, 0.3, 0.3), "idle")] == [AlarmPath.SLOW]


def test_a_fault_that_sounds_like_a_state_never_heard_is_a_step(life: Life) -> None:
    """Its nearest state may be one that the machine was not in yet: it has no minutes of its own."""
    assert life.hear([5.0] * 30, "load") == [(10.0, AlarmPath.STEP)]


def restarted(life: Life, *, same_bank: bool = True) -> Life:
    saved = json.loads(json.dumps(life.ways.to_json()))
    again = Ways(LEVELS, TIMING)
    again.restore(saved, active=life.ways.active, onset=life.ways.onset, same_bank=same_bank)
    return Life(ways=again)


def test_a_restart_keeps_the_past_of_each_way() -> None:
    life = Life()
    life.hear(normal(3 * HOUR))
    high = life.ways.step_way.ceiling.level
    again = restarted(life)
    assert again.ways.step_way.ceiling.level == pytest.approx(high, abs=0.01)
    assert again.ways.quiet_s == life.ways.quiet_s
    assert again.hear([5.0] * 15) == [(10.0, AlarmPath.STEP)]
    again = restarted(life)
    assert [path for _, path in again.hear(normal(HOUR, 1, 0.3, 1.0))] == [AlarmPath.SLOW]


@pytest.mark.parametrize("score", [100.0, 5.0])
@pytest.mark.parametrize("same_bank", [True, False])
def test_what_stood_stands_after_a_restart_until_it_clears(life: Life, score: float, same_bank: bool) -> None:
    (_, path), *_ = life.hear([score] * 20)
    again = restarted(life, same_bank=same_bank)
    assert again.ways.active
    assert not same_bank or again.ways.path is path
    assert again.hear([100.0] * 10) == []
    again.hear(normal(30))
    assert not again.ways.active


def test_a_standing_slow_alarm_survives_a_restart() -> None:
    life = Life()
    life.hear(normal(3 * HOUR))
    life.hear(normal(20 * MINUTE, 1, 0.3, 1.0))
    again = restarted(life)
    assert again.ways.path is AlarmPath.SLOW
    again.hear(normal(5 * MINUTE, 1, 0.3, 1.0))
    assert again.ways.active
    again.hear(normal(10 * MINUTE, 1))
    assert not again.ways.active


def damaged() -> Iterator[dict[str, object]]:
    whole = Ways(LEVELS, TIMING).to_json()
    for key in sorted(whole.keys() - {"path", "passed"}):
        yield {name: value for name, value in whole.items() if name != key}
    yield whole | {"recent": {"": ["nan"]}}
    yield whole | {"slow": {"": {}}}
    yield whole | {"passed": [[1.0, "long"]]}


@pytest.mark.parametrize("saved", list(damaged()))
def test_a_damaged_past_is_refused(saved: dict[str, object]) -> None:
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        Ways(LEVELS, TIMING).restore(saved, active=False, onset=None)


def test_forgetting_keeps_the_past(life: Life) -> None:
    life.hear([5.0] * 20)
    life.ways.forget()
    assert not life.ways.active
    life.lose(100.0)
    assert life.hear([5.0] * 20) == [(10.0, AlarmPath.STEP)]


def test_the_share_of_a_rate_moves_the_step_and_the_slow_way() -> None:
    often, seldom = (Life(Levels(20.0, 18.0, -5.0, per_month)) for per_month in (100.0, 0.1))
    found = []
    for life in (often, seldom):
        life.hear(normal(3 * HOUR, spread=1.0))
        level = life.ways.step_way.ceiling.level
        ((at_s, _),) = life.hear(normal(HOUR, 1, 1.0, 1.5))
        found.append((level, at_s))
    assert found[0][0] < found[1][0]
    assert found[0][1] < found[1][1]


def test_time_without_an_alarm_is_counted(life: Life) -> None:
    life.hear([5.0] * 70 + normal(30))
    assert life.ways.quiet_s == pytest.approx(3 * MINUTE + 10 + 24, abs=2)
    assert life.ways.raised == {AlarmPath.STRONG: 0, AlarmPath.STEP: 1, AlarmPath.SLOW: 0}


@pytest.mark.parametrize("middle", [0.4, -1.0])
def test_a_sudden_shift_within_the_bounds_of_the_bank_is_an_alarm_in_minutes(middle: float) -> None:
    life = Life()
    life.hear(normal(HOUR, 1, 0.1))
    found = life.hear(normal(5 * MINUTE, 2, 0.1, middle))
    assert [path for _, path in found] == ([AlarmPath.SLOW] if middle > 0 else [])


def test_a_shift_that_is_hardly_one_is_an_advisory() -> None:
    life = Life()
    life.hear(normal(HOUR, 1, 0.1))
    assert life.hear(normal(20 * MINUTE, 2, 0.1, 0.2)) == []
    assert life.ways.creeping is not None


def slowly_shifted() -> Life:
    """Two hours of two states, then a shift of the loaded one that only the slow way finds."""
    life = Life()
    life.hear(normal(HOUR, 1, 0.3), "load")
    life.hear(normal(HOUR, 2, 0.3), "idle")
    life.hear(normal(HOUR, 3, 0.3), "load")
    found = life.hear(normal(HOUR, 4, 0.3, 1.3), "load")
    assert [path for _, path in found] == [AlarmPath.SLOW]
    return life


def test_a_slow_alarm_of_one_state_does_not_stand_while_the_machine_runs_in_another() -> None:
    life = slowly_shifted()
    life.hear(normal(round(STATE_S) - 30, 5), "idle")
    assert life.ways.active  # a glimpse of another state is none
    life.hear(normal(40, 6), "idle")
    assert life.ways.path is None
    back = life.hear(normal(10 * MINUTE, 7, 0.3, 1.3), "load")
    assert [path for _, path in back] == [AlarmPath.SLOW]
    assert back[0][0] == pytest.approx(STATE_S, abs=2)


def test_a_slow_alarm_of_a_state_that_is_well_again_does_not_come_back() -> None:
    life = slowly_shifted()
    life.hear(normal(5 * MINUTE, 5), "idle")
    assert life.hear(normal(10 * MINUTE, 7), "load") == []


def test_a_restart_in_another_state_keeps_the_shift_for_its_own() -> None:
    life = slowly_shifted()
    life.hear(normal(5 * MINUTE, 5), "idle")
    again = Ways(LEVELS, TIMING)
    again.restore(json.loads(json.dumps(life.ways.to_json())), active=False, onset=None)
    other = Life(ways=again)
    assert other.hear(normal(5 * MINUTE, 5), "idle") == []
    assert [path for _, path in other.hear(normal(5 * MINUTE, 8, 0.3, 1.3), "load")] == [AlarmPath.SLOW]


def test_the_strong_level_rises_to_what_the_machines_own_past_would_reach_too_often() -> None:
    """A level that rests on half a minute is too low for a machine whose scores now and then stay high."""
    rng = np.random.default_rng(0)
    life = Life(Levels(strong=4.0, clear=3.6, floor=1.0, per_month=1.0))
    for _ in range(6):
        life.hear(normal(9 * MINUTE, int(rng.integers(1000))))
        life.hear([3.0 + rng.random()] * 9)  # for shorter than a step takes, and quiet
    assert 4.0 < (life.ways.levels_now[AlarmPath.STRONG] or 0.0) < 12.0
    life.hear(normal(5 * MINUTE, 9))
    assert [path for _, path in life.hear([20.0] * 20)] == [AlarmPath.STRONG]
