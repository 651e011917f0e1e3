"""Sensor faults: each one seen, none invented, and a loud machine left to its own alarm."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from echo_stream.alarm.alarm import Alarm
from echo_stream.alarm.sensor import SENSOR, SensorFigures, SensorWatch
from echo_stream.capture.figures import hum_and_rumble
from echo_stream.core.calibration import SensorLimits
from echo_stream.core.errors import EchoStreamError
from echo_stream.core.types import AlarmLevel, AlarmState, SensorEvent, SensorFault

RATE, HOP, WINDOW = 16_000, 16_000, 32_000
LIMITS = SensorLimits(quietest_dbfs=-32.0, loudest_dbfs=-28.0, most_hum=0.3, most_rumble=0.2)
WELL = SensorFigures(level_dbfs=-30.0)


def make(limits: SensorLimits = LIMITS) -> SensorWatch:
    return SensorWatch("pump3", sample_rate_hz=RATE, limits=limits)


def play(watch: SensorWatch, figures: list[SensorFigures], first: int = 0) -> list[SensorEvent]:
    return [
        event for i, own in enumerate(figures, first) for event in watch.step(own, i * HOP, i * HOP + WINDOW)
    ]


FAULTS = [
    (SensorFigures(-200.0, dead=True), SensorFault.DEAD),
    (SensorFigures(-35.0, stuck=True), SensorFault.STUCK),
    (SensorFigures(-4.0, clipped_share=0.4), SensorFault.CLIPPED),
    (SensorFigures(-53.0), SensorFault.QUIET),
    (SensorFigures(3.0), SensorFault.LOUD),
    (SensorFigures(-40.0, hum_share=0.97), SensorFault.HUM),
    (SensorFigures(-40.0, rumble_share=0.95), SensorFault.RUMBLE),
]


@pytest.mark.parametrize(("figures", "fault"), FAULTS)
def test_each_fault_comes_and_goes(figures: SensorFigures, fault: SensorFault) -> None:
    watch = make()
    events = play(watch, [WELL] * 3 + [figures] * 10 + [WELL] * 10)
    assert [(e.before, e.after) for e in events] == [(None, fault), (fault, None)]
    assert events[0].onset == 4 * HOP  # the fourth window's newest hop
    assert events[0].at == 3 * HOP + WINDOW + 2 * RATE  # on-delay 2 s
    assert events[1].at == 13 * HOP + WINDOW + 5 * RATE  # off-delay 5 s
    assert events[1].onset is None


@pytest.mark.parametrize(
    "figures",
    [
        SensorFigures(-51.0),  # 19 dB below the quietest
        SensorFigures(-6.0, clipped_share=0.09),  # a blade fault that overdrives the microphone
        SensorFigures(-30.0, hum_share=0.85, rumble_share=0.85),
    ],
)
def test_what_a_machine_may_do_is_no_sensor_fault(figures: SensorFigures) -> None:
    assert play(make(), [figures] * 30) == []


def test_a_machine_that_hums_has_no_hum_fault_before_it_does_nothing_else() -> None:
    limits = SensorLimits.fit([-30.0], hum_shares=[0.5, 0.94], rumble_shares=[0.1])
    assert play(make(limits), [SensorFigures(-30.0, hum_share=0.95)] * 10) == []
    assert len(play(make(limits), [SensorFigures(-30.0, hum_share=0.99)] * 10)) == 1


def test_without_fitted_spectrum_there_is_no_spectrum_fault() -> None:
    watch = make(SensorLimits.fit([-30.0, -29.0]))
    assert play(watch, [SensorFigures(-30.0, hum_share=1.0, rumble_share=1.0)] * 10) == []


def test_a_fault_that_turns_into_another_is_said() -> None:
    watch = make()
    dead, hum = SensorFigures(-200.0, dead=True), SensorFigures(-40.0, hum_share=0.99)
    events = play(watch, [dead] * 10 + [hum] * 10)
    assert [(e.before, e.after) for e in events] == [
        (None, SensorFault.DEAD),
        (SensorFault.DEAD, SensorFault.HUM),
    ]


def test_a_sensor_fault_suppresses_the_alarm_before_it_trips() -> None:
    watch = make()
    alarm = Alarm.at_level(
        "pump3",
        AlarmLevel.ALARM,
        sample_rate_hz=RATE,
        trip=5.0,
        clear=4.0,
        on_delay_s=3.0,
        off_delay_s=10.0,
    )
    seen = []
    for i in range(30):
        broken = 5 <= i < 15
        figures = SensorFigures(-200.0, dead=True) if broken else WELL
        start, end = i * HOP, i * HOP + WINDOW
        watch.step(figures, start, end)
        seen += alarm.suppress(end, SENSOR) if watch.masks_machine else alarm.unsuppress(end, SENSOR)
        seen += alarm.step(80.0 if broken else 0.0, start, end)
    assert [e.after for e in seen] == [AlarmState.SUPPRESSED, AlarmState.NORMAL]


def test_a_restart_during_a_fault_says_nothing_twice() -> None:
    dead = SensorFigures(-200.0, dead=True)
    before = make()
    play(before, [dead] * 5)
    after = make()
    after.restore(json.loads(json.dumps(before.snapshot())))
    assert after.fault is SensorFault.DEAD
    assert play(after, [dead] * 10) == []
    assert [e.after for e in play(after, [WELL] * 10, first=10)] == [None]


@pytest.mark.parametrize("saved", [{}, {"active": ["loose"]}, {"active": 3}])
def test_a_damaged_snapshot_is_refused(saved: dict[str, Any]) -> None:
    with pytest.raises(EchoStreamError, match="pump3"):
        make().restore(saved)


def noise(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(WINDOW).astype(np.float32) * np.float32(0.01)


def tone(frequency_hz: float, amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(WINDOW) / RATE)).astype(np.float32)


@pytest.mark.parametrize("mains_hz", [49.9, 50.0, 60.0, 60.1])
def test_hum_with_its_harmonics_is_hum(mains_hz: float) -> None:
    cable = tone(mains_hz, 0.1) + tone(3 * mains_hz, 0.05) + tone(5 * mains_hz, 0.02) + 0.05 * noise()
    hum, rumble = hum_and_rumble(cable.astype(np.float32), RATE)
    assert hum > 0.98
    assert rumble < 0.01


@pytest.mark.parametrize("sound", [noise(), tone(73.0, 0.1) + noise(), tone(1234.0, 0.1)])
def test_other_sound_is_not_hum(sound: np.ndarray) -> None:
    hum, rumble = hum_and_rumble(sound.astype(np.float32), RATE)
    assert hum < 0.1
    assert rumble < 0.1


def test_a_loose_contact_rumbles() -> None:
    walk = np.cumsum(np.random.default_rng(2).standard_normal(WINDOW))
    hum, rumble = hum_and_rumble((walk / np.abs(walk).max()).astype(np.float32), RATE)
    assert rumble > 0.95
    assert hum < 0.05


def test_silence_and_a_short_window_have_no_spectrum() -> None:
    assert hum_and_rumble(np.zeros(WINDOW, np.float32), RATE) == (0.0, 0.0)
    assert hum_and_rumble(tone(50.0, 0.1)[: RATE // 4], RATE)[0] == 0.0


@pytest.mark.parametrize(
    ("figures", "masked"),
    [
        (SensorFigures(-200.0, dead=True), True),
        (SensorFigures(-35.0, stuck=True), True),
        (SensorFigures(3.0), False),  # 31 dB over normal: the machine may be breaking
        (SensorFigures(-53.0), False),  # far too quiet, and that is all that is known
        (SensorFigures(-4.0, clipped_share=0.4), False),  # 24 dB louder and clipped: both are possible
        (SensorFigures(-20.0, clipped_share=0.4), True),  # the gain was turned up
        (SensorFigures(-30.0, hum_share=0.97), True),  # the rest is at -45: the machine is not there
        (SensorFigures(-10.0, hum_share=0.97), False),  # the rest is at -25: the machine hums, and is there
        (SensorFigures(-40.0, rumble_share=0.95), False),
    ],
)
def test_only_a_fault_that_explains_the_score_masks_the_machine(figures: SensorFigures, masked: bool) -> None:
    watch = make()
    events = play(watch, [WELL] * 3 + [figures] * 5)
    assert [event.before for event in events] == [None], "each of them is said"
    assert watch.masks_machine is masked
    restored = make()
    restored.restore(json.loads(json.dumps(watch.snapshot())))
    assert restored.masks_machine is masked


def test_a_snapshot_of_an_earlier_version_masks_as_it_did() -> None:
    watch = make()
    watch.restore({"active": ["dead"]})
    assert watch.masks_machine
