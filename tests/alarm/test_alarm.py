"""The alarm table of the conventions, row by row, and the delays, on a clock of 10 samples a window hop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from echo_stream.alarm.alarm import Alarm
from echo_stream.core.errors import CommandRefused, EchoStreamError
from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState

RATE = 10
HOP, WINDOW = 10, 20
S = AlarmState
LOW, BETWEEN, HIGH = 0.0, 4.5, 9.0


def make(**changed: Any) -> Alarm:
    given: dict[str, Any] = {
        "sample_rate_hz": RATE,
        "trip": 5.0,
        "clear": 4.0,
        "on_delay_s": 2.0,
        "off_delay_s": 3.0,
    }
    return Alarm.at_level("pump3", AlarmLevel.ALARM, **(given | changed))


class Player:
    """Feeds windows one after the other: hop 10, length 20 samples."""

    def __init__(self, alarm: Alarm) -> None:
        self.alarm = alarm
        self.end = HOP

    def play(self, values: Iterable[float]) -> list[AlarmEvent]:
        events = []
        for value in values:
            self.end += HOP
            events += self.alarm.step(value, self.end - WINDOW, self.end)
        return events

    def lose(self, samples: int) -> None:
        """After lost sound the next window begins behind it."""
        self.end += samples + WINDOW - HOP


def to_unack(alarm: Alarm) -> Player:
    player = Player(alarm)
    player.play([LOW, HIGH, HIGH, HIGH])
    assert alarm.state is S.UNACK
    return player


def to_acked(alarm: Alarm) -> Player:
    player = to_unack(alarm)
    alarm.ack(player.end)
    assert alarm.state is S.ACKED
    return player


def to_rtn_unack(alarm: Alarm) -> Player:
    player = to_unack(alarm)
    player.play([LOW] * 4)
    assert alarm.state is S.RTN_UNACK
    return player


def to_latched_unack(alarm: Alarm) -> Player:
    player = to_unack(alarm)
    player.play([LOW] * 4)
    assert alarm.state is S.LATCHED_UNACK
    return player


def to_latched_acked(alarm: Alarm) -> Player:
    player = to_latched_unack(alarm)
    alarm.ack(player.end)
    assert alarm.state is S.LATCHED_ACKED
    return player


def true_again(player: Player) -> list[AlarmEvent]:
    return player.play([HIGH] * 3)


def cleared(player: Player) -> list[AlarmEvent]:
    return player.play([LOW] * 4)


def acked(player: Player) -> list[AlarmEvent]:
    return player.alarm.ack(player.end)


def was_reset(player: Player) -> list[AlarmEvent]:
    return player.alarm.reset(player.end)


Reach = Callable[[Alarm], Player]
Do = Callable[[Player], list[AlarmEvent]]

TABLE: list[tuple[bool, Reach, Do, AlarmState, AlarmState, str]] = [
    (False, Player, true_again, S.NORMAL, S.UNACK, "condition"),
    (False, to_unack, acked, S.UNACK, S.ACKED, "ack"),
    (False, to_unack, cleared, S.UNACK, S.RTN_UNACK, "clear"),
    (True, to_unack, cleared, S.UNACK, S.LATCHED_UNACK, "clear"),
    (False, to_acked, cleared, S.ACKED, S.NORMAL, "clear"),
    (True, to_acked, cleared, S.ACKED, S.LATCHED_ACKED, "clear"),
    (False, to_rtn_unack, acked, S.RTN_UNACK, S.NORMAL, "ack"),
    (False, to_rtn_unack, true_again, S.RTN_UNACK, S.UNACK, "condition"),
    (True, to_latched_unack, acked, S.LATCHED_UNACK, S.LATCHED_ACKED, "ack"),
    (True, to_latched_unack, true_again, S.LATCHED_UNACK, S.UNACK, "condition"),
    (True, to_latched_acked, was_reset, S.LATCHED_ACKED, S.NORMAL, "reset"),
    (True, to_latched_acked, true_again, S.LATCHED_ACKED, S.UNACK, "condition"),
]


@pytest.mark.parametrize(("latching", "reach", "do", "before", "after", "cause"), TABLE)
def test_table(
    latching: bool, reach: Reach, do: Do, before: AlarmState, after: AlarmState, cause: str
) -> None:
    player = reach(make(latching=latching))
    (event,) = do(player)
    assert (event.before, event.after, event.cause) == (before, after, cause)
    assert player.alarm.state is after
    assert event.at == player.end
    assert event.machine == "pump3"
    assert event.level is AlarmLevel.ALARM
    assert event.threshold == 5.0
    assert event.active is player.alarm.active
    assert (event.onset is None) is (not event.active)


REACH_ALL: list[tuple[bool, Reach]] = [
    (False, Player),
    (False, to_unack),
    (False, to_acked),
    (False, to_rtn_unack),
    (True, to_latched_unack),
    (True, to_latched_acked),
]


@pytest.mark.parametrize(("latching", "reach"), REACH_ALL)
@pytest.mark.parametrize(
    ("start", "end", "overlaid"),
    [
        (lambda a, at: a.shelve(at, 60.0), lambda a, at: a.unshelve(at), S.SHELVED),
        (lambda a, at: a.suppress(at, "off"), lambda a, at: a.unsuppress(at), S.SUPPRESSED),
        (lambda a, at: a.out_of_service(at), lambda a, at: a.in_service(at), S.OUT_OF_SERVICE),
    ],
)
def test_any_state_can_be_overlaid_and_is_decided_anew(
    latching: bool, reach: Reach, start: Any, end: Any, overlaid: AlarmState
) -> None:
    player = reach(make(latching=latching))
    before, was_active = player.alarm.state, player.alarm.active
    (event,) = start(player.alarm, player.end)
    assert (event.before, event.after) == (before, overlaid)
    (event,) = end(player.alarm, player.end)
    keeps = {S.LATCHED_UNACK, S.LATCHED_ACKED} if latching else set()
    still = was_active and overlaid is not S.SUPPRESSED
    assert (event.before, event.after) == (
        overlaid,
        S.UNACK if still else before if before in keeps else S.NORMAL,
    )


def test_on_delay_counts_from_the_end_of_the_first_window_over_trip() -> None:
    player = Player(make())
    assert player.play([LOW, HIGH, HIGH]) == []
    (event,) = player.play([HIGH])
    assert (event.at, event.onset) == (50, 20)  # the second window, 10 to 30, brought the samples from 20
    assert (event.active, event.score) == (True, HIGH)


def test_no_delay_acts_on_the_first_window() -> None:
    player = Player(make(on_delay_s=0, off_delay_s=0))
    assert [e.after for e in player.play([HIGH, LOW, HIGH])] == [S.UNACK, S.RTN_UNACK, S.UNACK]


def test_between_the_levels_nothing_turns() -> None:
    player = Player(make())
    assert player.play([BETWEEN] * 10) == []
    assert [e.after for e in player.play([HIGH, BETWEEN, BETWEEN])] == [S.UNACK]
    assert player.play([BETWEEN] * 10) == []
    assert [e.after for e in player.play([LOW, BETWEEN, BETWEEN, BETWEEN])] == [S.RTN_UNACK]


def test_a_dip_to_the_clear_level_restarts_the_on_delay() -> None:
    player = Player(make())
    assert player.play([HIGH, HIGH, 4.0, HIGH, HIGH]) == []
    assert len(player.play([HIGH])) == 1


def test_at_the_trip_level_is_not_above_it() -> None:
    assert Player(make(on_delay_s=0)).play([5.0] * 5) == []


def test_lost_sound_restarts_pending_delays() -> None:
    player = Player(make())
    player.play([LOW, HIGH, HIGH])
    player.lose(1)
    assert player.play([HIGH, HIGH]) == []
    (event,) = player.play([HIGH])
    assert event.onset == 41  # windows up to 40, one sample lost, from 41
    player.play([LOW, LOW, LOW])
    player.lose(1000)
    assert player.play([LOW, LOW, LOW]) == []
    assert [e.after for e in player.play([LOW])] == [S.RTN_UNACK]


def test_a_skipped_window_without_lost_sound_is_no_gap() -> None:
    alarm = make()
    assert alarm.step(HIGH, 0, 20) == []
    assert len(alarm.step(HIGH, 20, 40)) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suppressed", [False, True])
def test_a_score_that_is_not_finite_is_an_error(value: float, suppressed: bool) -> None:
    alarm = make()
    if suppressed:
        alarm.suppress(0, "off")
    with pytest.raises(ValueError, match="pump3"):
        alarm.step(value, 0, 20)


def test_windows_must_advance() -> None:
    alarm = make()
    alarm.step(LOW, 0, 20)
    with pytest.raises(ValueError, match="ended at 20"):
        alarm.step(LOW, 0, 20)


def test_realarm_announces_again_while_it_stays_active() -> None:
    player = Player(make(realarm_s=5.0))
    events = player.play([HIGH] * 14)
    assert [(e.before, e.after, e.cause) for e in events] == [
        (S.NORMAL, S.UNACK, "condition"),
        (S.UNACK, S.UNACK, "realarm"),
        (S.UNACK, S.UNACK, "realarm"),
    ]
    assert [e.at for e in events] == [40, 90, 140]
    player.alarm.ack(player.end)
    (event,) = player.play([HIGH] * 5)
    assert (event.before, event.after, event.cause) == (S.ACKED, S.UNACK, "realarm")


def test_shelving_ends_by_the_clock_of_the_samples() -> None:
    player = to_unack(make())
    player.alarm.shelve(player.end, 3.0)
    assert player.play([HIGH] * 2) == []
    (event,) = player.play([HIGH])
    assert (event.before, event.after, event.cause) == (S.SHELVED, S.UNACK, "shelve_expired")
    player.alarm.shelve(player.end, 5.0)
    (event,) = player.play([LOW] * 5)
    assert (event.after, event.active) == (S.NORMAL, False)


def test_shelving_again_sets_a_new_end() -> None:
    player = Player(make())
    player.alarm.shelve(player.end, 1.0)
    assert player.alarm.shelve(player.end, 3.0) == []
    assert player.play([LOW, LOW]) == []
    assert len(player.play([LOW])) == 1


def test_the_strongest_of_three_shows_and_the_last_to_end_decides() -> None:
    player = to_unack(make())
    alarm, at = player.alarm, player.end
    assert [e.after for e in alarm.shelve(at, 2.0)] == [S.SHELVED]
    assert [e.after for e in alarm.suppress(at, "sensor dead")] == [S.SUPPRESSED]
    assert alarm.suppress(at, "off") == []
    assert alarm.suppressed_by == ("off", "sensor dead")
    assert [e.after for e in alarm.out_of_service(at)] == [S.OUT_OF_SERVICE]
    assert alarm.unsuppress(at, "off") == []
    assert [e.after for e in alarm.in_service(at)] == [S.SUPPRESSED]
    assert [e.after for e in alarm.unsuppress(at, "sensor dead")] == [S.SHELVED]
    assert [e.after for e in player.play([HIGH] * 2)] == [S.NORMAL]


def test_what_was_heard_while_suppressed_is_no_evidence() -> None:
    player = Player(make())
    player.alarm.suppress(player.end, "sensor dead")
    assert player.play([HIGH] * 20) == []
    (event,) = player.alarm.unsuppress(player.end)
    assert (event.after, event.active) == (S.NORMAL, False)
    assert player.play([HIGH] * 2) == []
    assert [e.after for e in player.play([HIGH])] == [S.UNACK]


def test_lifting_what_does_not_hold_is_nothing() -> None:
    alarm = make()
    assert alarm.unsuppress(0) == []
    assert alarm.unsuppress(0, "off") == []


REFUSED: list[tuple[bool, Reach, Callable[[Alarm], object]]] = [
    (False, Player, lambda a: a.ack(0)),
    (False, to_acked, lambda a: a.ack(0)),
    (True, to_latched_acked, lambda a: a.ack(0)),
    (False, Player, lambda a: a.reset(0)),
    (True, to_latched_unack, lambda a: a.reset(0)),
    (False, to_unack, lambda a: a.reset(0)),
    (False, Player, lambda a: a.unshelve(0)),
    (False, Player, lambda a: a.in_service(0)),
    (False, Player, lambda a: a.shelve(0, 0.0)),
    (False, Player, lambda a: a.shelve(0, float("nan"))),
]


@pytest.mark.parametrize(("latching", "reach", "command"), REFUSED)
def test_refused_commands_change_nothing(
    latching: bool, reach: Reach, command: Callable[[Alarm], object]
) -> None:
    player = reach(make(latching=latching))
    before = player.alarm.snapshot()
    with pytest.raises(CommandRefused, match="alarm of pump3"):
        command(player.alarm)
    assert player.alarm.snapshot() == before


def test_what_is_overlaid_cannot_be_acknowledged_or_taken_out_twice() -> None:
    player = to_unack(make())
    player.alarm.out_of_service(player.end)
    with pytest.raises(CommandRefused):
        player.alarm.ack(player.end)
    with pytest.raises(CommandRefused):
        player.alarm.out_of_service(player.end)


@pytest.mark.parametrize(
    "changed",
    [
        {"clear": 5.0},
        {"clear": float("nan")},
        {"trip": float("inf")},
        {"on_delay_s": -1.0},
        {"off_delay_s": -1.0},
        {"realarm_s": 0.0},
    ],
)
def test_settings_that_cannot_be(changed: dict[str, Any]) -> None:
    with pytest.raises(EchoStreamError):
        make(**changed)


def revive(player: Player, away_s: float = 0.0, **changed: Any) -> Player:
    alarm = make(**changed)
    alarm.restore(json.loads(json.dumps(player.alarm.snapshot())), away_s=away_s)
    return Player(alarm)


@pytest.mark.parametrize(("latching", "reach"), REACH_ALL)
def test_a_restart_announces_nothing_twice(latching: bool, reach: Reach) -> None:
    player = reach(make(latching=latching))
    state, active = player.alarm.state, player.alarm.active
    revived = revive(player, latching=latching)
    assert revived.alarm.state is state
    assert revived.alarm.active is active
    assert revived.play([HIGH if active else LOW] * 20) == []


def test_a_restart_keeps_the_onset_in_wall_time() -> None:
    player = to_unack(make())
    ago = player.end - (player.alarm.onset or 0)
    assert revive(player, away_s=60.0).alarm.onset == -ago - 60 * RATE


def test_a_restart_drops_what_was_pending() -> None:
    player = Player(make())
    player.play([HIGH, HIGH])
    revived = revive(player)
    assert revived.play([HIGH, HIGH]) == []
    assert len(revived.play([HIGH])) == 1


def test_shelving_goes_on_through_a_restart_and_ends_in_time() -> None:
    player = to_unack(make())
    player.alarm.shelve(player.end, 60.0)
    revived = revive(player, away_s=56.0)
    assert revived.alarm.state is S.SHELVED
    assert revived.play([HIGH, HIGH]) == []
    assert [e.cause for e in revived.play([HIGH])] == ["shelve_expired"]
    late = revive(player, away_s=1000.0)
    assert [e.after for e in late.play([HIGH])] == [S.UNACK]


def test_suppression_and_out_of_service_survive_a_restart() -> None:
    player = to_unack(make())
    player.alarm.suppress(player.end, "off")
    player.alarm.out_of_service(player.end)
    revived = revive(player).alarm
    assert [e.after for e in revived.in_service(0)] == [S.SUPPRESSED]
    assert revived.suppressed_by == ("off",)


def test_a_new_bank_takes_over_with_its_own_levels() -> None:
    player = to_unack(make())
    revived = revive(player, trip=20.0, clear=18.0)
    assert [e.after for e in revived.play([HIGH] * 4)] == [S.RTN_UNACK]


@pytest.mark.parametrize(
    "damage",
    [
        {"machine": "pump4"},
        {"level": "warning"},
        {"version": 99},
        {"state": "SHELVED"},
        {"state": "???"},
        {"onset_ago_s": "soon"},
        {"score": None},
    ],
)
def test_a_damaged_snapshot_is_refused(damage: dict[str, Any]) -> None:
    saved = to_unack(make()).alarm.snapshot() | damage
    alarm = make()
    with pytest.raises(EchoStreamError, match="pump3"):
        alarm.restore(saved)
    assert alarm.state is S.NORMAL


def test_an_empty_snapshot_is_refused() -> None:
    with pytest.raises(EchoStreamError, match="version"):
        make().restore({})
