"""The page of a real daemon, asked by a plain HTTP client: what it shows, does, and refuses."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import socket
import time
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import run, wait_for
from tests.support.page import MACHINE, QUIET, RunningPage, browser_window, needs_chromium, running_page

EVENT_ID = re.compile(r"[0-9A-Z]{26}")
ABSENT = "01KB5GZ1P0W3V6F1Q2Z8Y7X5RT"
HOSTILE = (
    *("../config.yaml", "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd"),
    *("/etc/passwd", "....//....//etc/passwd", "..\\..\\etc\\passwd", "%00", "pump3%00.json", "*", "pump3/*"),
    *("{}", "${HOME}", "a" * 3000, "%ff%fe", "' OR 1=1 --", "<script>alert(1)</script>"),
)
RATTLES_S = ((14, 26), (33, 37), (44, 48))
"""The first is long enough for an alarm, the sound of which is kept; the others are warnings alone."""
PASSES = ", ".join(f"{{kind: rattle, start_s: {start_s}, end_s: {end_s}}}" for start_s, end_s in RATTLES_S)
PRESS = MACHINE.format(id="press1", name="Press 1", source=f"start_s: 200, faults: [{PASSES}]")
PRESS = PRESS.replace("{on_delay_s: 2,", "{on_delay_s: 6,")
POSTS = ("machines/pump3/command",)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPage]:
    with running_page(tmp_path_factory.mktemp("page"), more=PRESS) as running:
        yield running


@pytest.fixture(scope="module")
def alarmed(page: RunningPage) -> RunningPage:
    """The same, when the fault of pump3 is announced, whose drive says its speed."""

    def drive_runs_until_the_alarm() -> bool:
        page.told.publish("plant/pump3/rpm", {"drive": {"rpm": 1480.0}})
        return bool(page.machine()["status"] == "alarm")

    wait_for(drive_runs_until_the_alarm, 40, "the alarm on the page")
    return page


def stream(page: RunningPage, query: str = "") -> socket.socket:
    line = socket.create_connection(("127.0.0.1", page.port), timeout=60)
    line.sendall(f"GET /api/stream{query} HTTP/1.1\r\nHost: localhost:{page.port}\r\n\r\n".encode())
    return line


def frames(line: socket.socket, wanted: str, timeout_s: float = 10.0) -> Any:
    """Data of the first frame of this kind."""
    data, until_s = b"", time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        data += line.recv(65536)
        if found := re.search(rb"event: %s\ndata: (.*)\n\n" % wanted.encode(), data):
            return json.loads(found[1])
    raise AssertionError(f"no {wanted} in {data[:500]!r}")


def test_every_machine_is_shown_and_an_alarm_first(alarmed: RunningPage) -> None:
    machines = alarmed.json("/api/machines")
    assert [machine["id"] for machine in machines] == ["pump3", "fan1", "press1"]
    pump, fan, _ = machines
    assert (pump["status"], pump["word"], pump["alarm"]["state"]) == ("alarm", "ALARM", "UNACK")
    assert pump["score"] > pump["alarm"]["trip"] > pump["warning"]["trip"] > 0
    assert (fan["status"], fan["name"], fan["since"]) == ("normal", "Fan 1", None)
    assert fan["coverage_10m"] > 0.9
    event = wait_for(
        lambda: next((e for e in alarmed.told.events if e["level"] == "alarm" and e["active"]), None),
        10,
        "MQTT",
    )
    assert pump["alarm"]["event_id"] == event["event_id"]
    assert pump["since"] == event["ts"]


def test_the_last_minutes_are_there_window_by_window(alarmed: RunningPage) -> None:
    recent = alarmed.json("/api/machines/pump3")["recent"]
    assert len(recent) >= 8
    steps = [b["at_s"] - a["at_s"] for a, b in itertools.pairwise(recent)]
    assert max(steps) < 1.6
    assert max(each["score"] for each in recent) > alarmed.machine()["alarm"]["trip"]
    assert alarmed.json("/api/machines/pump3/history?days=1")["step_s"] == 120
    assert alarmed.json("/api/trends")["step_s"] == 900


def test_what_a_calibrated_sensor_measures_is_shown_and_told(page: RunningPage) -> None:
    shown = wait_for(lambda: page.json("/api/machines/fan1")["measured"], 30, "measures on the page")
    assert [(each["name"], each["unit"]) for each in shown] == [
        ("sound_level_db", "dB"),
        ("sound_level_dba", "dBA"),
    ]
    level_dbfs = page.machine("fan1")["level_dbfs"]
    assert shown[0]["value"] == pytest.approx(level_dbfs + 120, abs=3)  # 20 Pa are 120 dB
    assert page.json("/api/machines/pump3")["measured"] == []
    told = wait_for(
        lambda: [p["measured"] for p in page.told.of("health", "fan1") if p["measured"]], 30, "MQTT"
    )
    assert 0 < told[-1]["sound_level_dba"] < told[-1]["sound_level_db"] + 2


def test_news_and_the_spectrogram_are_streamed(page: RunningPage) -> None:
    with contextlib.closing(stream(page, "?machine=pump3")) as line:
        assert {machine["id"] for machine in frames(line, "machines")} == {"pump3", "fan1", "press1"}
        columns = frames(line, "columns")
        assert (columns["rows"], columns["high_hz"]) == (256, 4000)
        assert len(columns["data"]) == 4 * -(-2560 // 3)  # ten columns in base64
        figures = frames(line, "figures")["machines"]
        assert set(figures) <= {"pump3", "fan1", "press1"}


def test_the_clip_answers_range_and_is_found_by_event_only(alarmed: RunningPage) -> None:
    event_id = alarmed.machine()["alarm"]["event_id"]
    found = wait_for(
        lambda: (e := alarmed.json(f"/api/evidence/{event_id}")) and e.get("picture") and e,
        100,
        "the evidence",
    )
    assert found["complete"]
    assert found["bands"][0]["change"] == "louder"
    assert found["alarm_s"] > found["onset_s"] > 0
    document = json.loads(
        next((alarmed.folder / "state/evidence/pump3").glob(f"*{event_id}.json")).read_text()
    )
    assert document["lines_hz"]["BPFO"] == pytest.approx(3.585 * 1480 / 60, rel=1e-3)
    assert document["normal_sound"]
    assert all(Path(each["path"]).is_file() for each in document["normal_sound"])
    assert found["lines"] == [each["text"] for each in document["lines"]]
    assert (document["speed"]["rpm"], document["speed"]["usable"]) == (1480.0, True)
    assert found["speed"] == document["speed"]["text"]
    told = wait_for(lambda: alarmed.told.of("evidence", "pump3"), 10, "the evidence over MQTT")[-1]
    assert (told["event_id"], told["lines"]) == (event_id, found["lines"])
    machines = json.loads(run(alarmed.folder, "status", "--json"))["machines"]
    speeds = {each["machine"]: each["speed"] for each in machines}
    assert speeds["pump3"]["rpm"] == 1480.0
    assert speeds["fan1"]["text"] == "not known: no value came on plant/fan1/rpm"
    status, headers, data = alarmed.ask(f"/api/evidence/{event_id}/clip", headers={"Range": "bytes=0-3"})
    assert (status, data, headers["content-type"]) == (206, b"fLaC", "audio/flac")
    assert alarmed.ask(f"/api/evidence/{event_id}/picture")[2].startswith(b"\x89PNG")
    normal = found["normal"]
    assert (normal["version"], normal["condition"]) == ("b1", "normal")
    assert normal["distance"] > 0
    assert 0 <= normal["at_s"] <= normal["duration_s"]
    status, headers, data = alarmed.ask(f"/api/evidence/{event_id}/normal", headers={"Range": "bytes=0-3"})
    assert (status, data, headers["content-type"]) == (206, b"fLaC", "audio/flac")
    files = json.loads(run(alarmed.folder, "events", "show", event_id))["files"]
    assert (alarmed.folder / files["nearest_normal"]).is_file()
    assert alarmed.json("/api/evidence?machine=pump3")["items"][0]["event_id"] == event_id
    assert alarmed.ask(f"/api/evidence/{ABSENT}/clip")[0] == 404
    links = alarmed.folder / "state" / "evidence" / "elsewhere"
    links.mkdir()
    (links / f"20261120T081403Z_elsewhere_{ABSENT}.flac").symlink_to("/etc/passwd")
    document = {"event": {"event_id": ABSENT, "machine": "x", "ts": "2026-11-20T08:14:03Z"}, "complete": True}
    (links / f"20261120T081403Z_elsewhere_{ABSENT}.json").write_text(json.dumps(document))
    assert alarmed.json(f"/api/evidence/{ABSENT}")["clip"] is False
    assert alarmed.ask(f"/api/evidence/{ABSENT}/clip")[0] == 404


def test_a_command_does_what_it_does_over_mqtt_and_stands_in_the_journal(page: RunningPage) -> None:
    asked = {"command": "shelve", "duration_s": 3600, "by": "anna", "reason": "bearing on order"}
    outcome = page.json("/api/machines/fan1/command", asked)
    assert outcome == {"ok": True, "outcome": "warning is SHELVED, alarm is SHELVED"}
    event = wait_for(
        lambda: [e for e in page.told.events if e["to"] == "SHELVED" and e["level"] == "alarm"], 5, "MQTT"
    )[0]
    assert event["reason"] == "by anna bearing on order"
    assert page.machine("fan1")["status"] == "shelved"
    item = wait_for(lambda: _item(page, event["event_id"]), 5, "the journal")
    assert item["event"]["reason"] == "by anna bearing on order"
    assert page.json("/api/machines/fan1/command", {"command": "unshelve", "by": "anna"})["ok"]
    again = page.ask("/api/machines/fan1/command", {"command": "unshelve", "by": "anna"})
    assert again[0] == 409
    assert not json.loads(again[2])["ok"]
    log = [json.loads(line) for line in (page.folder / "log").read_text().splitlines()]
    assert [line["by"] for line in log if line["event"] == "command: shelve"] == ["anna"]
    assert any(line["event"] == "command refused: unshelve" for line in log)
    assert any(line["event"] == "command: shelve" for line in page.json("/api/log")["lines"])


def _item(page: RunningPage, event_id: str) -> Any:
    items = page.json("/api/journal?machine=fan1")["items"]
    assert [item["number"] for item in items] == sorted((item["number"] for item in items), reverse=True)
    return next((item for item in items if item["event"]["event_id"] == event_id), None)


@pytest.mark.parametrize(
    "asked",
    [
        {"command": "shelve", "by": "anna"},
        {"command": "ack", "duration_s": 3, "by": "anna"},
        {"command": "ack"},
        {"command": "ack", "by": "  "},
        {"command": "delete", "by": "anna"},
        {"command": "ack", "by": "a" * 101},
        {"command": "ack", "by": "anna", "unknown": 1},
        [],
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
def test_a_command_that_is_malformed_is_refused_with_a_reason(page: RunningPage, asked: Any) -> None:
    status, _, body = page.ask("/api/machines/fan1/command", asked)
    assert status == 400
    assert json.loads(body)["outcome"]


def test_what_comes_from_another_page_changes_nothing(page: RunningPage) -> None:
    asked = {"command": "out_of_service", "by": "anna"}
    path = "/api/machines/fan1/command"
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://[::"},
        {"Content-Type": "text/plain"},
    ):
        assert page.ask(path, asked, headers=headers)[0] == 403
    for host in ("evil.example", "evil.example:80", "10.0.0.7", "[::", "a@localhost", ""):
        assert page.ask("/api/machines", headers={"Host": host})[0] in {400, 421}
    assert page.ask(path, method="PUT")[0] == 405
    assert page.machine("fan1")["status"] == "normal"


def test_no_request_goes_to_another_host_and_nothing_may_be_framed(page: RunningPage) -> None:
    _, headers, body = page.ask("/")
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in headers
    for name in re.findall(r'(?:src|href)="([^"#]+)"', body.decode()):
        assert "//" not in name
        assert not name.startswith("/")
        status, _, text = page.ask(f"/{name}")
        assert status == 200
        assert not re.search(rb"https?://(?!www\.w3\.org)", text)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_parameter_leads_to_a_file(page: RunningPage, hostile: str) -> None:
    part = hostile if "%" in hostile else urllib.parse.quote(hostile, safe="")
    raw = hostile if "%" in hostile else urllib.parse.quote(hostile, safe="/.\\")
    paths = [f"/{raw}", f"/api/{raw}"]
    for one in {part, raw}:
        paths += [f"/api/machines/{one}", f"/api/machines/{one}/history", f"/api/evidence/{one}"]
        paths += [f"/api/evidence/{one}/{what}" for what in ("clip", "picture", "normal")]
    paths += [f"/api/{name}={part}" for name in ("journal?machine", "evidence?machine", "stream?machine")]
    paths += [f"/api/journal?{name}={part}" for name in ("limit", "before")]
    paths += [f"/api/machines/pump3/history?days={part}"]
    for path in paths:
        status, _, body = page.ask(path)
        assert status in {400, 404}, path
        assert b"root:" not in body
        assert b"node: pc7" not in body
    assert page.ask(f"/api/machines/{part}/command", {"command": "ack", "by": "anna"})[0] in {404, 405}


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "1e99", "", "0x10"])
def test_numbers_are_bounded(page: RunningPage, number: str) -> None:
    assert page.ask(f"/api/machines/pump3/history?days={number}")[0] == 400


def test_health_log_and_bundle_hold_no_secret(page: RunningPage) -> None:
    health = page.json("/api/health")
    assert health["config"] == "ok"
    assert health["overview"]["machines"][0]["machine"] == "pump3"
    parts = {each["part"] for each in health["overview"]["threads"]}
    assert {"the pipeline", "the page"} <= parts
    assert any(line["event"] == "listening" for line in page.json("/api/log")["lines"])
    with zipfile.ZipFile(io.BytesIO(page.ask("/api/bundle")[2])) as bundle:
        assert set(bundle.namelist()) == {"health.json", "log.jsonl", "journal.jsonl", "config.json"}
        assert json.loads(bundle.read("config.json"))["node"] == "pc7"


def test_what_was_heard_is_too_little_to_learn_from_at_the_start(page: RunningPage) -> None:
    assert page.json("/api/machines/fan1/bank", {"do": "propose", "by": "anna"})["ok"]
    found = wait_for(
        lambda: (p := page.json("/api/machines/fan1/bank")["proposal"]) and p["state"] != "running" and p,
        90,
        "the proposal",
    )
    assert found["state"] == "failed"
    assert "heard" in found["said"]


def known_of(page: RunningPage, machine: str) -> Any:
    machines = page.json("/api/health")["overview"]["machines"]
    return next(each for each in machines if each["machine"] == machine)


def test_what_somebody_calls_a_fault_is_waited_for_no_longer(page: RunningPage) -> None:
    def named(machine: Any) -> bool:
        known = machine["outlook"]["known"] if machine["outlook"] else []
        return any("came and went by themselves" in line for line in known)

    def waits() -> bool:
        return named(known_of(page, "press1"))

    # What comes by itself is waited for over MQTT: each question to the page costs the daemon.
    wait_for(
        lambda: any(map(named, page.told.of("health", "press1")[-1:])),
        120,
        "three rattles of the press have passed",
    )
    assert waits()
    kept = wait_for(lambda: page.json("/api/evidence?machine=press1")["items"], 60, "their sound")
    answer = {"answer": "fault", "by": "bo"}
    assert page.json(f"/api/evidence/{kept[-1]['event_id']}/answer", answer)["ok"]
    wait_for(lambda: not waits(), 60, "the pipeline forgets how long it lasted")


def test_a_new_steady_state_is_told_by_status(page: RunningPage) -> None:
    steady = "new_steady_state"
    wait_for(
        lambda: [e for e in page.told.events if e["cause"] == steady], 120, "a minute of the same rattle"
    )
    wait_for(lambda: known_of(page, "pump3")[steady], 10, "the page says so too")
    assert not known_of(page, "fan1")["new_steady_state"]
    said = run(page.folder, "status")
    assert "pump3: new steady state" in said
    assert "fan1: new steady state" not in said


def test_what_another_level_would_have_raised(page: RunningPage) -> None:
    wait_for(lambda: page.json("/api/machines/fan1/what-if")["minutes"] > 0, 140, "a minute in the history")
    found = page.json("/api/machines/fan1/what-if?level=-100&on_delay_s=7&days=1")
    assert (found["level"], found["on_delay_s"], found["false_alarms_per_month"]) == (-100, 7, None)
    assert found["episodes"][0]["sure"]
    assert page.json("/api/machines/fan1/what-if?level=1e5")["episodes"] == []
    levels = [
        page.json(f"/api/machines/fan1/what-if?{what}={value}")["level"]
        for what, value in (("false_alarms_per_month", 0.001), ("false_alarms_per_month", 1000))
    ]
    assert levels[0] >= levels[1] > 0, "an alarm's level lies over the warning's, whatever is accepted"
    for wrong in ("level=nan", "days=1e9", "on_delay_s=-1", "false_alarms_per_month=0"):
        assert page.ask(f"/api/machines/fan1/what-if?{wrong}")[0] == 400


def test_openapi_names_every_operation(page: RunningPage) -> None:
    described = page.json("/api/openapi.json")
    assert "/api/machines/{machine}/command" in described["paths"]
    body = described["paths"]["/api/machines/{machine}/command"]["post"]["requestBody"]
    reference = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert "shelve" in described["components"]["schemas"][reference]["properties"]["command"]["enum"]
    for path, operations in described["paths"].items():
        for method in operations:
            if "{" not in path and method == "get" and "stream" not in path:
                assert page.ask(path)[0] == 200


def test_who_is_slow_or_large_costs_the_pipeline_nothing(page: RunningPage) -> None:
    before = page.json("/api/machines/fan1")["health"]
    lines = []
    for n in range(1000):
        line = socket.socket()
        line.setblocking(False)
        line.connect_ex(("127.0.0.1", page.port))
        lines.append(line)
        if n % 50 == 49:
            time.sleep(0.02)  # the backlog is 128
    for line in lines:
        with contextlib.suppress(OSError):
            line.send(b"GET / HTTP/1.1\r\nHost: localh")
    silent = [stream(page, "?machine=fan1") for _ in range(20)]  # never read again
    for _ in range(3):
        with contextlib.suppress(OSError):  # it hangs up before all of it is sent
            assert page.ask("/api/machines/fan1/command", b" " * 10_000_000)[0] == 413
    chunked = socket.create_connection(("127.0.0.1", page.port), timeout=60)
    chunked.sendall(
        f"POST /api/machines/fan1/command HTTP/1.1\r\nHost: localhost\r\nOrigin: {page.url[:-1]}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    with contextlib.suppress(OSError):
        for _ in range(1000):
            chunked.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
    time.sleep(3)
    after = page.json("/api/machines/fan1")["health"]
    for line in (*lines, *silent, chunked):
        line.close()
    assert after["windows_scored"] >= before["windows_scored"] + 3
    assert after["hops_skipped"] == 0
    assert after["samples_lost"] == 0
    assert after["lost_s"] == before["lost_s"]
    assert after["unheard_s"] - before["unheard_s"] < 1  # every second since then was scored


def test_nobody_listens_live_unless_that_is_allowed(page: RunningPage, tmp_path: Path) -> None:
    assert page.ask("/api/machines/fan1/listen")[0] == 403
    assert page.json("/api/me")["listen"] is False


def test_live_sound_of_a_machine(tmp_path: Path) -> None:
    with running_page(tmp_path, web=", listen: true", source=QUIET, machines=1) as page:
        assert page.json("/api/me")["listen"] is True
        line = socket.create_connection(("127.0.0.1", page.port), timeout=60)
        line.sendall(b"GET /api/machines/pump3/listen HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        while len(data) < 30_000:
            data += line.recv(65536)
        line.close()
        assert b"audio/wav" in data
        assert b"RIFF" in data
        assert len(set(data[-2000:])) > 50  # sound, not silence
        log = [json.loads(text) for text in (page.folder / "log").read_text().splitlines()]
        assert [each["machine"] for each in log if each["event"] == "somebody listens live"] == ["pump3"]


def test_the_page_is_off_unless_asked_for(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, echo_stream.daemon.daemon as _;"
        "off = ('starlette', 'uvicorn', 'rich');"  # nor what only tables need
        "print([m for m in sys.modules if m.split('.')[0] in off or 'stream.web' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


USE_B2 = {"do": "accept", "bank_id": "b2", "by": "anna"}


def _judge_the_proposal(alarmed: RunningPage) -> None:
    found = alarmed.json("/api/machines/pump3/bank")["proposal"]
    assert found["state"] == "ready", found["said"]
    assert (found["bank_id"], found["base_id"], found["by"]) == ("b2", "b1", "anna")
    assert found["score_before"] > found["alarm_before"]
    assert found["alarm_after"] < 1.1 * found["alarm_before"], "a state of its own raises no other's level"
    assert any("as operating state learnt-" in check for check in found["checks"])
    assert any(check.startswith("would not have been announced: alarm") for check in found["checks"])
    beside = alarmed.json("/api/machines/pump3/bank/b2")
    assert [beside[each]["id"] for each in ("in_use", "other")] == ["b1", "b2"]
    assert [e for e in beside["events"] if e["found_before"] and not e["found_after"]]
    assert alarmed.ask("/api/machines/pump3/bank/b99")[0] == 409
    assert alarmed.machine()["bank"] == "b1"  # nothing changes before it is accepted
    assert alarmed.ask("/api/machines/pump3/bank", {**USE_B2, "bank_id": "../b2"})[0] == 400
    assert alarmed.ask("/api/machines/pump3/bank", {**USE_B2, "bank_id": "b99"})[0] == 409


@needs_chromium
@pytest.mark.timeout(400)
def test_normal_learn_it_leads_to_a_bank_that_no_longer_raises_the_alarm(alarmed: RunningPage) -> None:
    kept = wait_for(
        lambda: alarmed.json("/api/evidence?machine=pump3")["items"], 20, "the sound of the alarm"
    )
    event_id = kept[0]["event_id"]
    wait_for(lambda: alarmed.json(f"/api/evidence/{event_id}")["complete"], 20, "the sound after the alarm")
    assert alarmed.ask(f"/api/evidence/{event_id}/answer", {"answer": "normal"})[0] == 400
    assert alarmed.ask(f"/api/evidence/{ABSENT}/answer", {"answer": "normal", "by": "anna"})[0] == 409
    asked = {"answer": "normal", "by": "anna", "reason": "new load"}
    with browser_window() as (window, wrong):
        window.goto(f"{alarmed.url}#/evidence/{event_id}")
        window.get_by_role("button", name="Normal: learn it").click()
        dialog = window.get_by_role("dialog")
        dialog.get_by_label("Your name").fill("anna")
        dialog.get_by_label("What it was").fill("new load")
        dialog.get_by_role("button", name="Normal: learn it").click()
        window.wait_for_url("**#/machine/pump3")
        assert alarmed.ask(f"/api/evidence/{event_id}/answer", asked)[0] == 409  # one at a time
        window.get_by_role("heading", name="Proposal b2").wait_for(timeout=240_000)  # niced
        _judge_the_proposal(alarmed)
        window.get_by_role("button", name="Use b2").first.click()
        window.get_by_role("dialog").get_by_label("Your name").fill("anna")
        window.get_by_role("dialog").get_by_role("button", name="Use b2").click()
        wait_for(lambda: alarmed.machine()["bank"] == "b2", 20, "the new bank")
        assert not wrong
    wait_for(lambda: not alarmed.machine()["alarm"]["active"], 20, "the same sound raises no alarm any more")
    assert alarmed.machine()["score"] < alarmed.machine()["alarm"]["trip"]
    journal = alarmed.json("/api/journal?machine=pump3")["items"]
    answers = [item["event"] for item in journal if item["kind"] == "answer"]
    assert [(a["answer"], a["by"]) for a in answers] == [("accept", "anna"), ("normal", "anna")]
    assert alarmed.json("/api/machines/pump3/bank", {"do": "rollback", "by": "bo"})["ok"]
    wait_for(lambda: alarmed.machine()["bank"] == "b1", 10, "the bank before")
    assert alarmed.json(f"/api/evidence/{event_id}/answer", {"answer": "fault", "by": "bo"})["ok"]
    assert [p.suffix for p in sorted((alarmed.folder / "state" / "faults" / "pump3").iterdir())] == [
        ".flac",
        ".json",
    ]
    status, _, body = alarmed.ask("/api/machines/pump3/bank", USE_B2)
    assert status == 409
    assert b"confirmed faults that are found now would no longer be found" in body
    assert alarmed.machine()["bank"] == "b1"
    assert alarmed.json("/api/machines/pump3/bank", {**USE_B2, "anyway": True})["ok"]
    assert alarmed.json("/api/machines/pump3/bank", {"do": "rollback", "by": "bo"})["ok"]
    now_s = time.time()
    span = {"answer": "fault", "by": "bo", "from_s": now_s - 600, "to_s": now_s}
    assert alarmed.json("/api/machines/pump3/answer", span)["ok"]
    assert alarmed.ask("/api/machines/pump3/answer", {**span, "from_s": now_s - 9e7})[0] == 409
    nothing = {**span, "answer": "fault", "from_s": now_s - 90_000, "to_s": now_s - 80_000}
    assert b"nothing is kept of that time" in alarmed.ask("/api/machines/pump3/answer", nothing)[2]
