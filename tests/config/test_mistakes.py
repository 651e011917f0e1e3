"""Mistakes that people make in config.yaml: each is a ConfigError with the line and what to write instead."""

from __future__ import annotations

import itertools
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.config.load import LARGEST_BYTES, load
from echo_stream.core.errors import ConfigError
from tests.support.damage import fuzz

BASE = """\
node: pc7
state_dir: state
mqtt: {host: localhost, topic_root: echo-stream, discovery_prefix: homeassistant}
machines:
  - &first
    id: pump3
    name: Pump 3
    source: {kind: simulated}
    bank: pump3.safetensors
"""


def refused(folder: Path, text: str | bytes) -> str:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.exit_code == 78
    assert caught.value.hint
    return caught.value.message.replace(f"{folder}/", "")


def changed(find: str, put: str) -> str:
    assert find in BASE
    return BASE.replace(find, put)


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        # A merge key copies the id of another machine.
        (
            "    bank: pump3.safetensors\n",
            "    bank: pump3.safetensors\n  - <<: *first\n    name: Second\n",
            "config.yaml:10: machines[1].id: another machine has the id 'pump3' too",
        ),
        ("node: pc7", "node: pc7\non: 1", "config.yaml:2: on: unknown key"),
        (
            "id: pump3",
            "id: 0123",
            "config.yaml:6: machines[0].id: expected text, found 83; write it in quotes",
        ),
        ("id: pump3", "id: 0123", '"0123"'),
        ("node: pc7", "node: no", 'node: expected text, found False; write it in quotes: "no"'),
        ("node: pc7", "node: !!python/object:os.system x", "config.yaml:1: the tag "),
        ("node: pc7", "node: !!binary cGM3", "config.yaml:1: the tag !!binary cannot be used here"),
        ("node: pc7", "node: &a [*a]", "config.yaml:1:"),
        ("node: pc7", "? [a, b]\n: c\nnode: pc7", "a list or mapping stands where a key is expected"),
        ("node: pc7", "<<: 3\nnode: pc7", "the key << expects a mapping"),
        ("node: pc7", 'node: "pc7\\n"', "config.yaml:1: node: expected 1 to 64 letters"),
        ("bank: pump3", "bank: ~nobody-here/pump3", "config.yaml:9: machines[0].bank: '~nobody-here/pump3"),
        ("state_dir: state", "state_dir: ${ECHO_NOT_SET}/x", "config.yaml:2: state_dir: the variable"),
        ("state_dir: state", "state_dir: $ECHO_NOT_SET", "config.yaml:2: state_dir: the variable"),
        ("state_dir: state", "state_dir: ${STATE_DIRECTORY}", "only the service has it"),
        ("state_dir: state", 'state_dir: ""', "config.yaml:2: state_dir: expected a path, found nothing"),
        ("state_dir: state", 'state_dir: "a "', "begins or ends with a blank"),
        ("state_dir: state", 'state_dir: "a\\0b"', "config.yaml:2: state_dir: "),
        ("state_dir: state", 'state_dir: "a\\uD800"', "config.yaml:2: "),
        ("state_dir: state", "state_dir: " + "a" * 300, "a name of 300 in it"),
        ("state_dir: state", "state_dir: " + "a/" * 5000, "config.yaml:2: state_dir: a path of"),
        ("name: Pump 3", 'name: "Pump\\e[31m"', "machines[0].name: contains the control character '\\x1b'"),
        (
            "name: Pump 3",
            'name: "\\uD800"',
            "config.yaml:7: ",
        ),
        ("name: Pump 3", "name: " + "p" * 10_000, "has 10000 characters, at most 250"),
        ("name: Pump 3", 'name: "  "', "found nothing but blanks"),
        ("host: localhost", "host: localhost, port: yes", "mqtt.port: expected a number, found true"),
        ("host: localhost", "host: localhost, score_interval_s: .inf", "mqtt.score_interval_s: expected"),
        ("host: localhost", "host: localhost, score_interval_s: .nan", "mqtt.score_interval_s: expected"),
        ("host: localhost", "host: localhost, port: " + "9" * 5000, "config.yaml:3: '9999"),
        ("host: localhost", "host: localhost, password_file: p", "password_file without username"),
        ("host: localhost", "host: localhost, tls: {key_file: k}", "mqtt.tls: key_file without cert_file"),
        ("host: localhost", "host: localhost, password: secret-1", "did you mean password_file?"),
        ("{kind: simulated}", "{kind: simulated, loop_s: 5}", "source.loop_s: unknown key"),
        ("{kind: simulated}", "{kind: simulated, seed: -1}", "source.seed: expected"),
        ("{kind: simulated}", "{kind: simulated, channel: 1}", "source.channel: expected"),
        (
            "{kind: simulated}",
            "{kind: simulated, faults: [{kind: rattle, start_s: 5, end_s: 5}]}",
            "end_s (5.0 s) is not after start_s (5.0 s)",
        ),
        (
            "{kind: simulated}",
            "{kind: stdin, sample_rate_hz: 16000, channels: 2, channel: 2}",
            "channel 2 of 2; channels are counted from 0",
        ),
        (
            "{kind: simulated}",
            "{kind: command, argv: [./record], sample_rate_hz: 16000}",
            "'./record' is a relative path; write the whole path, or the name alone",
        ),
        (
            "{kind: simulated}",
            "{kind: udp, sender: esp32, port: 5005, sample_rate_hz: 16000}",
            "is no address",
        ),
        (
            "{kind: simulated}",
            "{kind: udp, sender: '::1', port: 5005, sample_rate_hz: 16000}",
            "host 0.0.0.0 and sender ::1 are not both IPv4 or both IPv6",
        ),
        (
            "{kind: simulated}",
            "{kind: simulated, sensor: vibration, calibration: {unit: mm, full_scale: 5}}",
            "source.calibration.unit: expected 'g', 'm/s2' or 'Pa', found 'mm'",
        ),
        (
            "{kind: simulated}",
            "{kind: simulated, sensor: vibration, calibration: {unit: g, full_scale: 0}}",
            "source.calibration.full_scale: expected greater than 0, found 0",
        ),
        (
            "{kind: simulated}",
            "{kind: simulated, sensor: vibration, calibration: {unit: g}}",
            "expected either full_scale, or sensitivity_mv_per_unit and full_scale_v together",
        ),
        (
            "{kind: simulated}",
            "{kind: simulated, sensor: vibration, calibration: {unit: g, full_scale: 5, full_scale_v: 1}}",
            "expected either full_scale, or sensitivity_mv_per_unit and full_scale_v together",
        ),
        (
            "{kind: simulated}",
            "{kind: simulated, sensor: vibration, calibration: {unit: g, sensitivity_mv_per_unit: 100}}",
            "full_scale_v is missing",
        ),
        (
            "{kind: simulated}",
            "{kind: simulated, calibration: {unit: g, full_scale: 50}}",
            "calibration.unit g needs sensor: vibration, found microphone",
        ),
        (
            "{kind: simulated}",
            "{kind: simulated, sensor: vibration, calibration: {unit: Pa, full_scale: 50}}",
            "calibration.unit Pa needs sensor: microphone, found vibration",
        ),
        (
            "{kind: simulated}",
            "{kind: simulated, sensor: vibration, calibration: {unit: g, full_scale: 1, "
            "envelope_hz: [9, 3]}}",
            "expected two frequencies above 0, the lower one first, found [9.0, 3.0]",
        ),
        *(
            (
                "{kind: simulated}",
                "{kind: simulated, sensor: vibration, calibration: {unit: g, full_scale: 1}}\n    "
                f"limits: {{velocity_mm_s: {given}}}",
                said,
            )
            for given, said in (
                ("[7.1, 2.8]", "limits.velocity_mm_s: expected numbers above 0, each above the one before"),
                ("[0, 2.8]", "limits.velocity_mm_s: expected numbers above 0, each above the one before"),
                ("[2.8]", "limits.velocity_mm_s: expected "),
                ("[1, 2, 3, 4]", "limits.velocity_mm_s: expected "),
            )
        ),
        *(
            ("{kind: simulated}", f"{{kind: simulated}}\n    {given}", said)
            for given, said in (
                ("bearing: {balls: 9, d: 8, D: 39}", "gear_teeth and bearing need rpm"),
                ("gear_teeth: 23", "gear_teeth and bearing need rpm"),
                ("rpm: 0", "rpm: expected greater than 0, found 0"),
                ("rpm: fast", "rpm: expected a valid number"),
                ("rpm: {topic: plant/+/rpm}", "rpm.topic: 'plant/+/rpm' has the level '+'"),
                ("rpm: {topic: $SYS/rpm}", "rpm.topic: '$SYS/rpm' has the level '$SYS'"),
                (
                    "rpm: {topic: echo-stream/x/rpm}",
                    "rpm.topic: 'echo-stream/x/rpm' lies below 'echo-stream'",
                ),
                ("rpm: {topic: a/rpm, max_age: 9}", "rpm.max_age: unknown key; did you mean max_age_s?"),
                ("rpm: {topic: a/rpm, max_age_s: 0}", "rpm.max_age_s: expected greater than 0, found 0"),
                ("rpm: {key: rpm}", "rpm.topic: is missing"),
                ("rpm: 1480\n    bearing: {balls: 9, d: 39, D: 8}", "do not fit on a circle of 8"),
                ("rpm: 1480\n    bearing: {balls: 9, d: 8}", "bearing.D: is missing"),
                ("rpm: 1480\n    bearing: {balls: 9, d: 8, D: 39, angel: 15}", "did you mean angle?"),
            )
        ),
        (
            "{kind: simulated}",
            "{kind: simulated}\n    limits: {velocity_mm_s: [2.8, 7.1]}",
            "limits.velocity_mm_s needs source.calibration with the unit g or m/s2",
        ),
        ("{kind: simulated}", "{kind: command, argv: [], sample_rate_hz: 16000}", "source.argv: expected"),
        ("{kind: simulated}", "{kind: command, argv: [''], sample_rate_hz: 16000}", "name is empty"),
        (
            "{kind: simulated}",
            "{kind: command, argv: ffmpeg, sample_rate_hz: 16000}",
            "source.argv: expected",
        ),
        (
            "{kind: simulated}",
            "{kind: command, argv: [arecord, -r, 16000], sample_rate_hz: 16000}",
            'source.argv[2]: expected text, found 16000; write it in quotes: "16000"',
        ),
        (
            "{kind: simulated}",
            "{kind: command, argv: [arecord], sample_rate_hz: 16000, format: s16be}",
            "source.format: expected",
        ),
        ("{kind: simulated}", "{kind: microphone, device: 'hw:1,0'}", "is a number, expected a name"),
        ("{kind: simulated}", "{kind: microphone, device: '3'}", "is a number, expected a name"),
    ],
)
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: str, put: str, said: str
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    message = refused(tmp_path, changed(find, put))
    assert said in message
    assert "secret-1" not in message
    for line in message.splitlines():
        assert re.match(r"config\.yaml:\d+: ", line)
        assert line.isprintable()
        assert len(line) < 400


@pytest.mark.parametrize(
    "host",
    [
        "mqtt://127.0.0.1",
        "ws://127.0.0.1:9001/mqtt",
        "127.0.0.1:1883",
        "broker:1883",
        "[::1]",
        "[::1]:1883",
        "127.0.0.1 ",
        " broker",
        "bro ker",
        "user@broker",
        "broker/mqtt",
        "/run/mosquitto.sock",
        "1.2.3.4.5",
        "300.1.1.1",
        "broker..local",
        "-broker",
        "*.local",
        "a" * 64,
        ".",
        "",
        "12345::1::2",
    ],
)
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    assert "config.yaml:3: mqtt.host: " in refused(tmp_path, changed("host: localhost", f'host: "{host}"'))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "::1",
        "fe80::1%eth0",
        "broker.example.org",
        "my_broker",
        "bücher.example",
        "a.b.",
    ],
)
def test_what_is_a_host_is_taken(tmp_path: Path, host: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(changed("host: localhost", f'host: "{host}"'))
    assert load(path).mqtt.host == host


@pytest.mark.parametrize("key", ["topic_root: echo-stream", "discovery_prefix: homeassistant"])
@pytest.mark.parametrize(
    "topic",
    ["plant/", "/plant", "plant//hall", "$SYS/x", "home/#", "+", "a/+/b", "", " ", "a\\0", "a/ /b", "#"],
)
def test_what_is_no_topic_is_refused(tmp_path: Path, key: str, topic: str) -> None:
    name = key.partition(":")[0]
    message = refused(tmp_path, changed(key, f'{name}: "{topic}"'))
    assert f"config.yaml:3: mqtt.{name}: " in message


def test_a_topic_of_several_levels_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(changed("topic_root: echo-stream", "topic_root: plant/hall 2"))
    assert load(path).mqtt.topic_root == "plant/hall 2"


def test_keys_of_a_merge_are_told_where_the_merge_stands(tmp_path: Path) -> None:
    text = (
        BASE + "  - <<: [*first]\n    id: pump4\n    bank: ${ECHO_NOT_SET}/p\n    source: {kind: simulatd}\n"
    )
    message = refused(tmp_path, text)
    assert "config.yaml:12: machines[1].bank: the variable" in message
    assert "config.yaml:13: machines[1].source.kind" in message
    assert len(message.splitlines()) == 2


def test_a_merge_gives_what_the_machine_does_not_say_itself(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BASE + "  - {<<: *first, id: pump4, bank: b}\n")
    first, second = load(path).machines
    assert (second.id, second.title, second.source, second.bank.name) == (
        "pump4",
        "Pump 3",
        first.source,
        "b",
    )


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "config.yaml:7: the byte 0xfc is not UTF-8" in refused(
        tmp_path, BASE.replace("Pump 3", "Lüfter").encode("latin-1")
    )
    assert "config.yaml:1: the byte 0xff is not UTF-8" in refused(tmp_path, BASE.encode("utf-16"))
    assert "config.yaml:2: contains the character '\\x07'" in refused(
        tmp_path, BASE.replace("state\n", "st\a\n")
    )


def _bombs() -> dict[str, str]:
    names = "abcdefghijklmnopqrstuvwx"
    lists = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(names)
    )
    merges = "a: &a {x: 1}\n" + "".join(
        f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n" for old, new in itertools.pairwise(names)
    )
    return {
        "lists": lists,
        "merges": merges,
        "10 MB": BASE + "# " + "x" * 10_000_000,
        "a megabyte of brackets": "node: " + "[" * (LARGEST_BYTES - 10),
        "a megabyte of keys": "node: pc7\n" + "".join(f"k{n}: {n}\n" for n in range(70_000)),
        "deep keys": "".join(" " * n + f"k{n}:\n" for n in range(800)),
        "an alias in itself": "node: &a {x: *a}\n",
    }


@pytest.mark.parametrize("name", _bombs())
def test_files_that_would_take_all_memory_are_refused_soon(tmp_path: Path, name: str) -> None:
    began = time.monotonic()
    refused(tmp_path, _bombs()[name])
    assert time.monotonic() - began < 120  # not minutes, also on a busy PC


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "nothing", "loop", "NUL"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "NUL":
        path = tmp_path / "a\0b"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)


TEXTS = st.sampled_from(
    [
        *(
            "",
            " ",
            "a ",
            "\t",
            "\0",
            "\x1b[31m",
            "\ud800",
            "é" * 300,
            "x" * 10_000,
            "~",
            "~x/y",
            "$A",
            "${A}",
            "${",
        ),
        *(
            "home/#",
            "+",
            "a//b",
            "$SYS",
            "mqtt://h",
            "h:1883",
            "[::1]",
            "0123",
            "no",
            "2026-01-01",
            "1:30",
            "1e999",
        ),
        *("-", "[]", "{}", "*a", "&a", "<<", "!!int", ".nan", "-.inf", "0x", "off", "~nobody-here"),
    ]
)
KEYS = [
    *("node", "state_dir", "metrics_port", "encoder", "evidence", "outbox", "machines", "mqtt"),
    *("mqtt.host", "mqtt.port", "mqtt.username", "mqtt.password_file", "mqtt.tls", "mqtt.tls.ca_file"),
    *("mqtt.topic_root", "mqtt.discovery_prefix", "mqtt.protocol", "mqtt.score_interval_s"),
    *("encoder.kind", "encoder.weights", "encoder.window_s", "evidence.max_mb", "outbox.max_rows"),
    *("machines.0", "machines.0.id", "machines.0.name", "machines.0.bank", "machines.0.source"),
    *("machines.0.source.kind", "machines.0.source.device", "machines.0.source.channel"),
    *("machines.0.source.path", "machines.0.source.seed", "machines.0.alarm", "machines.0.alarm.on_delay_s"),
]
VALUES: st.SearchStrategy[Any] = TEXTS | st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        0.5,
        1e308,
        float("nan"),
        float("inf"),
        10**400,
        [],
        {},
        [[]],
        {"a": 1},
        {1: 2},
        ["a", None],
    ]
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mistakes") / "config.yaml"


def put(tree: Any, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree[0] if isinstance(tree, list) else tree.setdefault(part, {})
        if not isinstance(tree, dict | list) or tree == []:
            return
    if isinstance(tree, list):
        tree[0] = value
    else:
        tree[last] = value


@fuzz(400)
@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=4), st.booleans())
def test_every_key_with_every_value(scratch: Path, changes: list[tuple[str, Any]], shared: bool) -> None:
    """Values of every kind at every key, with anchors and merges: a configuration or a ConfigError."""
    tree: Any = {"node": "a", "machines": [{"id": "a", "source": {"kind": "simulated"}, "bank": "b"}]}
    for key, value in changes:
        put(tree, key, value)
    if shared and tree["machines"] and isinstance(tree["machines"], list):
        tree["machines"] = [*tree["machines"], *tree["machines"], {"<<": tree["machines"][0]}]
    text = yaml.safe_dump(tree, allow_unicode=False)
    scratch.write_bytes(text.replace("'<<':", "<<:").encode("utf-8", "surrogateescape"))
    try:
        load(scratch)
    except ConfigError as error:
        message, hint = error.message, error.hint
    else:
        return
    assert hint
    assert all(line.startswith(str(scratch)) and line.isprintable() for line in message.split("\n"))
