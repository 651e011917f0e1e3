"""Every payload against its schema, and what the schema cannot say."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.core.errors import DeliveryError
from echo_stream.core.measures import MEASURES
from echo_stream.core.text import utc_text
from echo_stream.core.types import (
    AlarmLevel,
    AlarmState,
    BandScore,
    DriftEvent,
    Score,
    SensorEvent,
    SensorFault,
)
from echo_stream.mqtt import event_ids, state_payloads
from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt.topics import Topics

from .conftest import NOON, a_score, an_event


def check(payload: object, name: str) -> None:
    json.dumps(payload, allow_nan=False)
    jsonschema.Draft202012Validator(messages.schema(name)).validate(payload)


@pytest.mark.parametrize("name", messages.SCHEMAS)
def test_schemas_are_schemas_and_their_examples_fit(name: str) -> None:
    schema = messages.schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    for example in schema["examples"]:
        jsonschema.Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize(
    "name", ["event", "alarm", "score", "health", "node", "evidence", "sensor", "drift", "flood"]
)
def test_schemas_refuse_a_field_that_is_missing_or_unknown(name: str) -> None:
    example = messages.schema(name)["examples"][0]
    later = {
        "drift": {"since"},
        "evidence": {"lines"},
        "health": {"outlook", "measured", "zone"},
        "node": {"worst_coverage_10m"},
    }
    added_later = later.get(name, set())  # not in 0.1
    for key in (key for key in example.keys() - added_later if not key.startswith("band1_")):
        with pytest.raises(jsonschema.ValidationError):
            check({k: v for k, v in example.items() if k != key}, name)
    with pytest.raises(jsonschema.ValidationError):
        check({**example, "new": 1}, name)


def test_event_says_all_that_the_convention_lists() -> None:
    payload = an_event(seq=412)
    check(payload, "event")
    assert payload["ts"] == "2026-11-20T12:00:00.123Z"
    assert payload["onset_ts"] == "2026-11-20T11:59:57.123Z"
    assert (payload["from"], payload["to"], payload["priority"]) == ("NORMAL", "UNACK", "high")
    assert payload["delayed"] is False
    assert payload["bank"] == {"id": "b7", "sha256": "9f" * 32}
    bands = payload["evidence"]["bands_hz"]
    assert [band[:2] for band in bands] == [[2800.0, 3500.0], [500.0, 1000.0]]
    assert sum(band[2] for band in bands) == pytest.approx(1.0)
    flat = [[payload[f"band{n}_{name}"] for name in ("low_hz", "high_hz", "share")] for n in (1, 2)]
    assert flat == bands
    assert "band3_low_hz" not in payload


def test_a_warning_is_of_low_priority() -> None:
    payload = an_event(level=AlarmLevel.WARNING)
    check(payload, "event")
    assert (payload["level"], payload["priority"]) == ("warning", "low")


def test_what_is_not_finite_is_null() -> None:
    payload = an_event(score=float("nan"), threshold=float("inf"))
    check(payload, "event")
    assert payload["score"] is None
    assert payload["threshold"] is None


def test_a_score_below_normal_names_no_band() -> None:
    low = Score(-1.0, 0.9, (BandScore(0, 500, -0.5), BandScore(500, 900, -0.5)), (), -30, 0, "normal")
    payload = state_payloads.score(low, node="pc7", machine="pump3", ts=NOON, threshold=2.1)
    check(payload, "score")
    assert payload["bands_hz"] == []


def test_score_and_health_and_evidence_fit_their_schemas() -> None:
    check(
        state_payloads.score(a_score(), node="a", machine="b", ts=NOON, threshold=2, warning_threshold=1),
        "score",
    )
    health = state_payloads.health(
        node="a",
        machine="b",
        ts=NOON,
        capture="lost: no such device",
        coverage_10m=None,
        level_dbfs=float("-inf"),
        overruns=3,
        lost_samples=480,
        real_time_factor=0.04,
        versions={"echo-stream": "0.1.0"},
        counters={"windows": 3},
    )
    check(health, "health")
    enrolling = {
        **{"stage": "done", "progress": 1.0, "left_s": 0.0, "level_dbfs": None, "clipped": 0.0, "hum": 0.1},
        **{"said": "", "fits": [{"condition": "load", "bank": "b2", "verdict": "ok"}], "by": "anna"},
    }
    health = state_payloads.health(
        node="a",
        machine="b",
        ts=NOON,
        capture="running",
        coverage_10m=1.0,
        level_dbfs=-30.0,
        measured=dict.fromkeys(MEASURES, 2.5),
        zone="C",
        overruns=0,
        lost_samples=0,
        real_time_factor=0.04,
        versions={},
        enrolling=enrolling,
    )
    check(health, "health")
    assert health["enrolling"]["banks"] == ["b2"]
    for reasons in ([], ["pump3: \x1b[2J \ud800"] * 30):
        found = state_payloads.node_health(node="a", ts=NOON, reasons=reasons, counters={"restarts": 3})
        check(found, "node")
        assert found["state"] == ("degraded" if reasons else "ok")
    check(
        messages.evidence(
            node="a",
            machine="b",
            event_id=event_ids.new_event_id(NOON),
            ts=NOON,
            clip="c",
            picture=None,
            folder="/",
        ),
        "evidence",
    )


def test_sensor_drift_and_flood_fit_their_schemas() -> None:
    event_id = event_ids.new_event_id(NOON)
    for fault in SensorFault:
        event = SensorEvent("pump3", None, fault, 480_000, 240_000)
        payload = messages.sensor(event, node="pc7", event_id=event_id, ts=NOON, onset_ts=NOON)
        check(payload, "sensor")
        assert (payload["from"], payload["to"], payload["active"]) == (None, fault.value, True)
    well = SensorEvent("pump3", SensorFault.HUM, None, 480_000, None)
    payload = messages.sensor(well, node="pc7", event_id=event_id, ts=NOON, onset_ts=None)
    check(payload, "sensor")
    assert not payload["active"]
    drifted = DriftEvent("pump3", True, 480_000, 0.92, 0.8)
    check(messages.drift(drifted, node="pc7", event_id=event_id, ts=NOON), "drift")
    flood = messages.flood(
        node="pc7",
        event_id=event_id,
        ts=NOON,
        since=NOON,
        active=True,
        announcements=11,
        machines=("fan1", "pump3"),
    )
    check(flood, "flood")


@pytest.mark.parametrize("alarm", AlarmState)
@pytest.mark.parametrize("warning", AlarmState)
def test_alarm_state_tells_the_level_that_matters_more(alarm: AlarmState, warning: AlarmState) -> None:
    payload = state_payloads.alarm_state(
        node="pc7",
        machine="pump3",
        name="Pump 3",
        ts=NOON,
        levels={
            AlarmLevel.ALARM: messages.LevelState(alarm, alarm is AlarmState.UNACK, NOON, NOON, "0" * 26),
            AlarmLevel.WARNING: messages.LevelState(warning, warning is AlarmState.UNACK),
        },
    )
    check(payload, "alarm")
    assert payload["state"] == (warning if alarm is AlarmState.NORMAL else alarm).value
    expected = "alarm" if alarm is AlarmState.UNACK else "warning" if warning is AlarmState.UNACK else None
    assert payload["level"] == expected
    assert payload["active"] is (expected is not None)


def test_alarm_state_before_any_event() -> None:
    payload = state_payloads.alarm_state(node="pc7", machine="pump3", name="Pump 3", ts=NOON, levels={})
    check(payload, "alarm")
    assert (payload["state"], payload["active"], payload["priority"]) == ("NORMAL", False, None)


def test_timestamps_are_utc_and_need_a_zone() -> None:
    there = datetime(2026, 11, 20, 14, 0, 0, tzinfo=timezone(timedelta(hours=2)))
    assert utc_text(there) == "2026-11-20T12:00:00.000Z"
    with pytest.raises(ValueError, match="no time zone"):
        utc_text(datetime(2026, 11, 20))  # noqa: DTZ001 - that is the point


@given(st.lists(st.integers(0, 4_000_000_000_000), min_size=2, max_size=20, unique=True))
def test_event_ids_sort_by_time(milliseconds: list[int]) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    ids = [event_ids.new_event_id(epoch + timedelta(milliseconds=ms)) for ms in sorted(milliseconds)]
    # datetime.timestamp() is a float: of neighbours one millisecond apart, both may round to the same one.
    assert [event_id[:9] for event_id in ids] == sorted(event_id[:9] for event_id in ids)
    assert len(set(ids)) == len(ids)
    assert all(len(event_id) == 26 for event_id in ids)


@given(st.lists(st.integers(0, 4_000_000_000_000), min_size=2, max_size=20))
def test_event_ids_stay_in_order_whatever_the_clock_does(milliseconds: list[int]) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    ids = event_ids.EventIds()
    made = [ids.new(epoch + timedelta(milliseconds=ms)) for ms in milliseconds]
    assert made == sorted(set(made))


def test_event_ids_go_on_after_those_of_an_earlier_run_and_never_come_twice() -> None:
    saved = event_ids.EventIds().new(NOON + timedelta(days=365))  # the clock was a year ahead
    runs = []
    for _ in range(
        2
    ):  # the second is what comes after a full disk and a kill: nothing of the first was saved
        ids = event_ids.EventIds()
        ids.begin_after(saved, NOON)
        runs.append([ids.new(NOON) for _ in range(100)])
        assert runs[-1] == sorted(runs[-1])
        assert runs[-1][0] > saved
    assert not set(runs[0]) & set(runs[1])
    damaged = event_ids.EventIds()
    damaged.begin_after("Z" * 26, NOON)
    damaged.begin_after("", NOON)
    assert damaged.new(NOON)[:9] == event_ids.new_event_id(NOON)[:9]


def test_event_id_of_a_known_time() -> None:
    # The example of the specification (github.com/ulid/spec): 1469918176385 ms gives 01ARYZ6S41.
    at = datetime.fromtimestamp(1469918176.385, tz=UTC)
    assert event_ids.new_event_id(at).startswith("01ARYZ6S41")


def test_topics() -> None:
    topics = Topics("site/echo-stream", "pc7")
    assert topics.status == "site/echo-stream/pc7/status"
    assert topics.of("pump3", "alarm") == "site/echo-stream/pc7/pump3/alarm"
    assert topics.commands == "site/echo-stream/pc7/+/cmd"


@pytest.mark.parametrize("bad", ["", "a/b", "a+", "#", "$SYS", "a\0"])
def test_topics_refuse_what_mqtt_would_misread(bad: str) -> None:
    with pytest.raises(DeliveryError, match="level of an MQTT topic"):
        Topics("echo-stream", bad)
    with pytest.raises(DeliveryError, match="level of an MQTT topic"):
        Topics("echo-stream", "pc7").of(bad, "alarm")
