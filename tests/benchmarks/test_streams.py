"""The benchmarks of streams and disturbances judge rightly, on alarms made up and on a simulated machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.disturbances import kind_of, mixed
from benchmarks.labels import Judged, Stretch, judge, read_labels
from benchmarks.replay import CROSSFADE_S, Raised, Replayed, join, raised_of, recordings_folder
from benchmarks.streams import main
from echo_stream.alarm.alarm import Alarm
from echo_stream.capture.simulator import Fault as SimulatedFault
from echo_stream.capture.simulator import Scenario, SimulatedMachine, write_wav
from echo_stream.core.types import AlarmEvent, AlarmLevel

HEADER = "file,start_s,end_s,label,kind,source,join,sample_rate,notes\n"
STREAM = (
    Stretch("normal", "on", 0.0, 60.0, joins_s=(30.0,)),
    Stretch("anomaly", "knock", 60.0, 90.0),
    Stretch("normal", "on", 90.0, 150.0),
    Stretch("off", "off", 150.0, 180.0),
)
SETTLE_S = {AlarmLevel.WARNING: 5.0, AlarmLevel.ALARM: 9.0}


def judged(*alarms: Raised, warnings: tuple[Raised, ...] = ()) -> Judged:
    raised = {AlarmLevel.ALARM: list(alarms), AlarmLevel.WARNING: list(warnings)}
    return judge(Replayed(np.empty(0), np.empty(0), raised, []), STREAM, settle_s=SETTLE_S)


def verdicts(found: Judged) -> list[bool]:
    """Announced, at most one, cleared, none in normal sound."""
    return [good for good, _ in found.verdicts()]


GOOD = Raised(60.0, 64.0, 102.0)


@pytest.mark.parametrize(
    ("alarms", "expected"),
    [
        ([GOOD], [True, True, True, True]),
        ([], [False, True, True, True]),
        ([Raised(60.0, 70.1, 102.0)], [False, True, True, True]),
        ([Raised(60.0, 64.0, 111.0)], [True, True, False, True]),
        ([Raised(60.0, 64.0, None)], [True, True, False, True]),
        ([Raised(60.0, 64.0, 75.0), Raised(80.0, 84.0, 102.0)], [True, False, True, True]),
        ([Raised(40.0, 44.0, 58.0), GOOD], [True, True, True, False]),
        ([Raised(50.0, 54.0, 102.0)], [False, True, True, False]),  # nobody is told of the fault
        ([GOOD, Raised(120.0, 124.0, 140.0)], [True, True, True, False]),
        ([Raised(88.0, 93.0, 105.0)], [False, True, True, True]),  # late, but of the fault
        ([GOOD, Raised(150.0, 154.0, None)], [True, True, True, True]),  # off is neither
    ],
)
def test_each_requirement_has_its_own_verdict(alarms: list[Raised], expected: list[bool]) -> None:
    assert verdicts(judged(*alarms)) == expected


def test_alarms_while_the_machine_is_off_are_reported_apart() -> None:
    found = judged(GOOD, Raised(150.0, 156.0, None))
    assert [a.raised_s for a in found.elsewhere] == [156.0]
    assert found.false_alarms == ()


def test_a_warning_may_come_at_a_join_only() -> None:
    at_join, elsewhere = Raised(30.0, 34.0, 45.0), Raised(20.0, 24.0, 40.0)
    assert verdicts(judged(GOOD, warnings=(at_join, GOOD)))[-1]
    assert not verdicts(judged(GOOD, warnings=(elsewhere, GOOD)))[-1]


def test_false_alarms_are_counted_by_the_hour_of_normal_sound() -> None:
    found = judged(GOOD, Raised(20.0, 24.0, 40.0))
    assert found.normal_h == pytest.approx(120 / 3600)
    assert "30 false alarms an hour" in list(found.verdicts())[-1][1]


def test_delays_count_from_the_labels() -> None:
    fault = judged(GOOD).faults[0]
    assert (fault.delay_s, fault.clear_delay_s) == (4.0, 12.0)


def test_a_fault_at_the_end_of_the_stream_cannot_be_seen_to_clear() -> None:
    raised = {AlarmLevel.ALARM: [Raised(60.0, 64.0, None)], AlarmLevel.WARNING: []}
    found = judge(Replayed(np.empty(0), np.empty(0), raised, []), STREAM[:2], settle_s=SETTLE_S)
    assert verdicts(found) == [True, True, True, True]
    assert "cannot be seen" in list(found.verdicts())[2][1]


def test_takes_of_one_fault_are_one_fault(tmp_path: Path) -> None:
    rows = [
        "a.wav,0.0,7.0,normal,healthy,x,start,1,",
        "a.wav,7.0,15.0,normal,healthy,y,join,1,",
        "a.wav,15.0,20.0,anomaly,tooth,z,join,1,",
        "a.wav,20.0,30.0,anomaly,tooth,w,join,1,",
        "b.wav,0.0,9.0,normal,healthy,v,start,1,",
    ]
    (tmp_path / "labels.csv").write_text(HEADER + "\n".join(rows))
    assert read_labels(tmp_path / "labels.csv") == {
        "a.wav": [
            Stretch("normal", "healthy", 0.0, 15.0, (7.0,)),
            Stretch("anomaly", "tooth", 15.0, 30.0, (20.0,)),
        ],
        "b.wav": [Stretch("normal", "healthy", 0.0, 9.0)],
    }


def test_alarms_are_read_from_the_events_of_their_level() -> None:
    alarm = Alarm.at_level(
        "m", AlarmLevel.ALARM, sample_rate_hz=100, trip=5.0, clear=4.0, on_delay_s=3.0, off_delay_s=4.0
    )
    scores = [0.0] * 5 + [9.0] * 10 + [0.0] * 10 + [9.0] * 6  # windows of 2 s, a second apart
    events: list[AlarmEvent] = []
    for i, score in enumerate(scores):
        events += alarm.step(score, i * 100, i * 100 + 200)
    # The window that ends at 7 s is the first above; its newest hop is 6 s to 7 s; 3 s on-delay. It turns
    # back at 17 s and has been clear for 4 s at 21 s.
    assert raised_of(events, AlarmLevel.ALARM, 100) == [Raised(6.0, 10.0, 21.0), Raised(26.0, 30.0, None)]
    assert raised_of(events, AlarmLevel.WARNING, 100) == []


def test_a_disturbance_is_mixed_at_its_level() -> None:
    rng = np.random.default_rng(1)
    normal = rng.normal(0, 0.1, 40_000).astype(np.float32)
    disturbance = rng.normal(0, 0.01, 10_000).astype(np.float32)
    sound = mixed(normal, disturbance, 20_000, 6.0)
    added = (sound - normal).astype(np.float64)
    assert not added[:20_000].any()
    assert not added[30_000:].any()
    ratio = np.std(added[20_000:30_000]) / np.std(normal[20_000:30_000])
    assert 20 * np.log10(ratio) == pytest.approx(6.0, abs=0.01)


def test_takes_are_joined_over_a_cross_fade() -> None:
    rate = 1000
    joined = join([np.full(500, 0.5, np.float32), np.full(300, -0.5, np.float32)], rate)
    fade = round(CROSSFADE_S * rate)
    assert len(joined) == 800 - fade
    assert (joined[: 500 - fade] == 0.5).all()
    assert (joined[500:] == -0.5).all()
    assert (np.abs(np.diff(joined)) <= 1 / (fade - 1) + 1e-6).all()


def test_the_kind_is_in_the_name() -> None:
    assert kind_of(Path("disturbance_dog-bark_2-114280-A.flac")) == "dog-bark"


def test_the_folder_is_never_guessed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ECHO_STREAM_RECORDINGS", raising=False)
    with pytest.raises(SystemExit, match="name the folder"):
        recordings_folder(None)
    monkeypatch.setenv("ECHO_STREAM_RECORDINGS", str(tmp_path))
    assert recordings_folder(None) == tmp_path
    with pytest.raises(SystemExit, match="no such folder"):
        recordings_folder(tmp_path / "none")


def test_a_simulated_machine_from_fit_to_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    streams, rate = tmp_path / "streams", 8000
    streams.mkdir()
    machine = SimulatedMachine(3, rate)
    faulty = Scenario(machine, [SimulatedFault("rattle", 75.0, 90.0)])
    write_wav(streams / "sim_enroll_normal.wav", Scenario(machine).render(0, 60 * rate), rate)
    write_wav(streams / "sim_test.wav", faulty.render(60 * rate, 52 * rate), rate)
    rows = [
        "sim_enroll_normal.wav,0,60,normal,on,s,start,8000,",
        "sim_test.wav,0,15,normal,on,s,start,8000,",
        "sim_test.wav,15,30,anomaly,rattle,s,start,8000,",
        "sim_test.wav,30,52,normal,on,s,start,8000,",
    ]
    (streams / "labels.csv").write_text(HEADER + "\n".join(rows))
    picture = tmp_path / "streams.png"
    main([str(tmp_path), "--picture", str(picture)])
    report = capsys.readouterr().out
    assert "sim_test.wav" in report
    assert report.count("  ok  ") == 4
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_broken_tooth_of_a_real_gearbox(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = tmp_path / "streams"
    streams.mkdir()
    for name in ("gearbox_a2_enroll_normal.wav", "gearbox_a2_test.wav"):
        shutil.copy(recordings / "streams" / name, streams)
    rows = (recordings / "streams" / "labels.csv").read_text().splitlines()
    (streams / "labels.csv").write_text(
        "\n".join([rows[0], *(r for r in rows if r.startswith("gearbox_a2"))])
    )
    main([str(tmp_path)])
    assert "FAIL" not in capsys.readouterr().out
