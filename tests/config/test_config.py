"""config.yaml: what is read, and what each mistake is told as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from echo_stream.config.load import load
from echo_stream.config.schema import EchoEncoder, SpectralEncoder
from echo_stream.config.sources import RecordingSource
from echo_stream.core.errors import ConfigError

GOOD = """\
node: pc7
state_dir: state
encoder: {kind: spectral, window_s: 2.0, hop_s: 1.0}
mqtt: {host: localhost, port: 1883, username: null, password_file: null, tls: {ca_file: null}, protocol: 5}
machines:
  - id: pump3
    name: Pump 3
    source: {kind: microphone, device: "USB Audio", channel: 0, sample_rate_hz: 48000}
    bank: banks/pump3.safetensors
    alarm: {on_delay_s: 3, off_delay_s: 10, dead_band: 0.1}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text))
    assert caught.value.exit_code == 78
    return caught.value.message


def test_the_shape_of_the_example_is_read(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD))
    assert isinstance(config.encoder, SpectralEncoder)
    assert (config.encoder.window_s, config.encoder.hop_s) == (2.0, 1.0)
    assert config.machines[0].source.kind == "microphone"
    assert config.machines[0].alarm.on_delay_s == 3
    assert not config.mqtt.tls.on


def test_the_shipped_example_is_read() -> None:
    assert load(Path(__file__).parents[2] / "config.yaml").machines[0].id == "pump3"


def test_relative_paths_count_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/echo-stream.service")
    text = GOOD.replace("password_file: null", "password_file: '${CREDENTIALS_DIRECTORY}/mqtt-password'")
    text = text.replace("username: null", "username: pump")
    text = text.replace(
        '{kind: microphone, device: "USB Audio", channel: 0, sample_rate_hz: 48000}',
        "{kind: recording, path: ../a.wav}",
    )
    config = load(write(tmp_path, text))
    assert config.state_dir == tmp_path / "state"
    assert config.machines[0].bank == tmp_path / "banks/pump3.safetensors"
    assert config.mqtt.password_file == Path("/run/credentials/echo-stream.service/mqtt-password")
    source = config.machines[0].source
    assert isinstance(source, RecordingSource)
    assert source.path == tmp_path.parent / "a.wav"


def test_a_calibration_is_read_as_full_scale_or_as_a_sensitivity(tmp_path: Path) -> None:
    found = []
    for said in ("unit: g, full_scale: 50", "unit: m/s2, sensitivity_mv_per_unit: 10, full_scale_v: 0.5"):
        calibrated = f"sensor: vibration, calibration: {{{said}}}, channel: 0"
        source = load(write(tmp_path, GOOD.replace("channel: 0", calibrated))).machines[0].source
        assert source.calibration is not None
        found.append((source.calibration.unit, source.calibration.units_at_full_scale))
    assert found == [("g", 50.0), ("m/s2", 50.0)]


def test_echo_is_chosen_by_its_kind(tmp_path: Path) -> None:
    text = GOOD.replace("{kind: spectral, window_s: 2.0, hop_s: 1.0}", "{kind: echo, weights: m.safetensors}")
    encoder = load(write(tmp_path, text)).encoder
    assert isinstance(encoder, EchoEncoder)
    assert (encoder.size, encoder.weights) == ("tiny", tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("find", "put", "line", "said"),
    [
        ("port: 1883", "prot: 1883", 4, "mqtt.prot: unknown key; did you mean port?"),
        ("channel: 0", "chanel: 0", 8, "machines[0].source.chanel: unknown key; did you mean channel?"),
        ("on_delay_s: 3", "on_delay_s: soon", 10, "machines[0].alarm.on_delay_s: expected a valid number"),
        ("48000", "500", 8, "sample_rate_hz: expected greater than or equal to 1000, found 500"),
        ("window_s: 2.0", "window_s: 0.1", 3, "encoder.window_s: expected greater than or equal to 0.175"),
        ("window_s: 2.0", "window_s: 21", 3, "encoder.window_s: expected less than or equal to 20, found 21"),
        ("hop_s: 1.0", "hop_s: 2.5", 3, "hop_s (2.5 s) is longer than window_s (2.0 s)"),
        (
            "kind: spectral",
            "kind: spectrum",
            3,
            "encoder.kind: expected one of spectral, echo, found 'spectrum'; did you mean spectral?",
        ),
        (
            "kind: microphone, ",
            "",
            8,
            "machines[0].source.kind: expected one of microphone, command, udp, recording, stdin, simulated"
            ", found nothing",
        ),
        ("    bank: banks/pump3.safetensors\n", "", 6, "machines[0].bank: is missing"),
        ("id: pump3", "id: pump 3", 6, "machines[0].id: expected"),
        ("node: pc7", "node: pc7\nnode: pc8", 2, "node: stands twice; keep one"),
        ("node: pc7", "node: [pc7", 2, "not YAML"),
        (
            'device: "USB Audio"',
            "device: 3",
            8,
            'machines[0].source.device: expected text, found 3; write it in quotes: "3"',
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(
    tmp_path: Path, find: str, put: str, line: int, said: str
) -> None:
    assert find in GOOD
    message = mistakes(tmp_path, GOOD.replace(find, put))
    assert f"{tmp_path}/config.yaml:{line}: " in message
    assert said in message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    bad = GOOD.replace("port: 1883", "prot: 1883").replace("on_delay_s: 3", "on_delay_s: x")
    bad += "  - {id: pump3, source: {kind: stdin, sample_rate_hz: 16000}, bank: b}\n"
    lines = mistakes(tmp_path, bad).splitlines()
    assert len(lines) == 3
    assert "machines[1].id: another machine has the id 'pump3' too" in lines[2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b\n",
        "just words\n",
        "\x00",
        "!!timestamp \n",
        "node: 2026-13-45\n",
        "!!bool x\n",
        "!!int\n",
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text).count(f"{tmp_path}/config.yaml") == 1
    assert "\n" not in mistakes(tmp_path, text)


def test_a_key_with_a_line_break_stays_on_its_line(tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, GOOD + '"a\\nb": 1\n').splitlines()) == 1


def test_no_machines(tmp_path: Path) -> None:
    assert "at least one machine" in mistakes(tmp_path, "node: a\nmachines: []\n")


def test_two_cannot_read_standard_input(tmp_path: Path) -> None:
    machine = "  - {id: %s, source: {kind: stdin, sample_rate_hz: 16000}, bank: b}\n"
    text = "node: a\nmachines:\n" + machine % "a" + machine % "b"
    assert "only one machine can read standard input" in mistakes(tmp_path, text)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_the_page_has_an_address_for_others_only_where_it_is_known() -> None:
    from echo_stream.config.schema import WebSettings

    def address(**settings: Any) -> str | None:
        return WebSettings(**{"enabled": True, "password_file": "users", **settings}).address

    assert address() is None
    assert address(host="0.0.0.0") is None
    assert address(enabled=False, hosts=("pc7.plant",)) is None
    assert address(hosts=("pc7.plant",)) == "http://pc7.plant:8765/"
    assert address(host="192.168.0.5", port=80) == "http://192.168.0.5:80/"
    assert address(host="fd00::5") == "http://[fd00::5]:8765/"
