"""StationRegistry: one machine that cannot be listened to does not silence the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import soundfile

from echo_stream.config.load import load
from echo_stream.config.schema import Config, Machine
from echo_stream.core.errors import EchoStreamError, SourceError
from echo_stream.daemon.stations import StationRegistry
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.factory import build_encoder
from echo_stream.pipeline.station import Station
from tests.support.daemon import wait_for

CONFIG = """\
node: pc7
state_dir: state
machines:
  - {id: pump1, source: {kind: simulated, seed: 3, sample_rate_hz: 8000, pace: fast, duration_s: 100}, bank: one.safetensors}
  - {id: pump2, source: {kind: simulated, seed: 3, sample_rate_hz: 8000, pace: fast, duration_s: 100}, bank: two.safetensors}
"""  # noqa: E501


class Scene:
    """A registry of two machines, and which of them came and went."""

    def __init__(self, folder: Path, bank: bytes) -> None:
        self.folder = folder
        for name in ("one", "two"):
            (folder / f"{name}.safetensors").write_bytes(bank)
        self.added: list[str] = []
        self.removed: list[str] = []
        self._encoder: Encoder | None = None

    def config(self, text: str = CONFIG) -> Config:
        (self.folder / "config.yaml").write_text(text)
        return load(self.folder / "config.yaml")

    def registry(self, config: Config | None = None) -> StationRegistry:
        config = config or self.config()
        self._encoder = build_encoder(config)
        return StationRegistry(
            config,
            self._encoder,
            on_added=self._on_added,
            on_removed=self.removed.append,
            first_retry_s=0.0,
        )

    def _on_added(self, _station: Station, machine: Machine) -> None:
        self.added.append(machine.id)


@pytest.fixture
def scene(tmp_path: Path, simulated_bank: bytes) -> Scene:
    return Scene(tmp_path, simulated_bank)


def rewritten(data: bytes, change: Callable[[dict[str, object]], None]) -> bytes:
    """A bank whose header was edited by hand."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def without_metadata(header: dict[str, object]) -> None:
    header["__metadata__"] = None


def with_hop_of_zero(header: dict[str, object]) -> None:
    metadata = header["__metadata__"]
    assert isinstance(metadata, dict)
    key = next(iter(metadata))
    found = json.loads(metadata[key])
    found["hop_s"] = 0
    metadata[key] = json.dumps(found)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    "metadata null": lambda data: rewritten(data, without_metadata),
    "hop_s 0": lambda data: rewritten(data, with_hop_of_zero),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bank_silences_its_own_machine_only(
    scene: Scene, simulated_bank: bytes, damage: str
) -> None:
    path = scene.folder / "two.safetensors"
    path.write_bytes(DAMAGES[damage](simulated_bank))
    registry = scene.registry()
    registry.open()
    assert scene.added == ["pump1"]
    assert list(registry.failed) == ["pump2"]
    assert registry.failed["pump2"].reason

    path.write_bytes(simulated_bank)
    registry.take_new_banks()
    assert set(registry.apply_changes()) == {"pump1", "pump2"}
    assert not registry.failed
    registry.close()


def test_a_missing_bank_and_a_missing_recording(scene: Scene) -> None:
    (scene.folder / "two.safetensors").unlink()
    text = CONFIG + "  - {id: fan1, source: {kind: recording, path: gone.wav}, bank: one.safetensors}\n"
    registry = scene.registry(scene.config(text))
    registry.open()
    assert scene.added == ["pump1"]
    assert "there is no bank" in registry.failed["pump2"].reason
    assert "gone.wav" in registry.failed["fan1"].reason
    registry.close()


def test_a_daemon_without_any_bank_is_heard_and_takes_the_first(scene: Scene, simulated_bank: bytes) -> None:
    for name in ("one", "two"):
        (scene.folder / f"{name}.safetensors").unlink()
    registry = scene.registry()
    registry.open()
    assert not registry.stations
    assert set(registry.failed) == {"pump1", "pump2"}
    assert registry.read_without_bank(lambda _: False) == []  # a source that waits for us is left alone
    heard = registry.read_without_bank(lambda machine: machine == "pump1")
    assert [window.start for window, _ in heard[:2]] == [0, heard[0][0].end // 2]
    assert {window.machine for window, _ in heard} == {"pump1"}
    registry.retry_failed(monotonic() + 1)  # its bank is missing still: it is read on without a gap
    following, device = registry.read_without_bank(lambda machine: machine == "pump1")[0]
    assert following.start == heard[-1][0].start + heard[1][0].start
    assert "simulated" in device

    (scene.folder / "one.safetensors").write_bytes(simulated_bank)
    registry.take_new_banks()
    assert set(registry.apply_changes()) == {"pump1"}
    health = registry.stations["pump1"].health
    assert health.origin_s >= following.end / following.sample_rate_hz  # what was read before was not missed
    assert {window.machine for window, _ in registry.read_without_bank(lambda _: True)} == {"pump2"}
    registry.close()


def test_a_bank_of_another_window_ends_with_78(scene: Scene) -> None:
    config = scene.config(CONFIG + "encoder: {kind: spectral, window_s: 1.0}\n")
    with pytest.raises(EchoStreamError, match="window_s") as caught:
        scene.registry(config).open()
    assert caught.value.exit_code == 78


def test_a_source_that_fails_without_a_bank_is_opened_anew(scene: Scene) -> None:
    (scene.folder / "two.safetensors").unlink()
    registry = scene.registry()
    registry.open()
    registry.fail("pump2", SourceError("the file ended too early"))
    registry.apply_changes()
    assert registry.failed["pump2"].source is None
    registry.retry_failed(monotonic() + 1)
    registry.apply_changes()
    assert registry.read_without_bank(lambda _: True)[0][0].start == 0
    registry.close()


def test_a_machine_without_a_bank_may_come_by_a_reload(scene: Scene) -> None:
    registry = scene.registry()
    registry.open()
    text = CONFIG + CONFIG[CONFIG.index("  - {id: pump2") :].replace("pump2", "fan1").replace("two", "none")
    registry.reload(scene.config(text))
    assert set(registry.apply_changes()) == {"pump1", "pump2"}
    assert "there is no bank" in registry.failed["fan1"].reason
    registry.close()


def test_where_no_machine_can_be_opened_but_one_may_heal_it_waits(scene: Scene) -> None:
    (scene.folder / "one.safetensors").unlink()
    text = CONFIG[: CONFIG.index("  - {id: pump2")]
    text += "  - {id: fan1, source: {kind: recording, path: later.wav}, bank: two.safetensors}\n"
    registry = scene.registry(scene.config(text))
    registry.open()
    assert not registry.stations
    assert set(registry.failed) == {"pump1", "fan1"}
    soundfile.write(scene.folder / "later.wav", np.zeros(16_000), 8000)
    registry.retry_failed(monotonic() + 1)
    assert set(registry.apply_changes()) == {"fan1"}
    registry.close()


@pytest.mark.parametrize("error", [SourceError("the file ended too early"), ZeroDivisionError("by zero")])
def test_a_machine_that_fails_while_it_runs_comes_back(scene: Scene, error: Exception) -> None:
    registry = scene.registry()
    registry.open()
    registry.fail("pump1", error)
    assert list(registry.apply_changes()) == ["pump2"]
    assert str(error) in registry.failed["pump1"].reason

    registry.retry_failed(monotonic() + 1)
    assert set(registry.apply_changes()) == {"pump1", "pump2"}
    assert registry.stations["pump1"].reader.window() is not None
    assert scene.removed == []
    registry.close()


def test_retries_wait_longer_each_time(scene: Scene) -> None:
    (scene.folder / "two.safetensors").unlink()
    registry = scene.registry()
    registry._first_retry_s = 1.0
    registry.open()
    waits = []
    for _ in range(8):
        waits.append(registry.failed["pump2"].wait_s)
        registry.retry_failed(monotonic() + 1000)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    registry.close()


def test_a_reload_that_fails_changes_nothing(scene: Scene) -> None:
    registry = scene.registry()
    registry.open()
    bad = CONFIG + "  - {id: fan1, source: {kind: recording, path: gone.wav}, bank: one.safetensors}\n"
    with pytest.raises(EchoStreamError, match=r"gone\.wav"):
        registry.reload(scene.config(bad))
    assert set(registry.apply_changes()) == {"pump1", "pump2"}
    assert [machine.id for machine in registry.config.machines] == ["pump1", "pump2"]
    registry.close()


def test_a_reload_adds_and_removes_machines(scene: Scene) -> None:
    registry = scene.registry()
    registry.open()
    before = registry.stations["pump1"]
    registry.reload(scene.config(CONFIG.replace("pump2", "fan1")))
    assert set(registry.stations) == {"pump1", "pump2"}  # nothing changes under a window
    assert set(registry.apply_changes()) == {"pump1", "fan1"}
    assert registry.stations["pump1"] is before
    assert scene.removed == ["pump2"]
    registry.close()


def test_a_reload_changes_speed_and_limits_of_a_machine_whose_source_stays(scene: Scene) -> None:
    known = "sensor: vibration, calibration: {unit: g, full_scale: 1}}, "
    before = CONFIG.replace("duration_s: 100}, ", f"duration_s: 100, {known}")
    registry = scene.registry(scene.config(before.replace("bank: one", "rpm: 600, bank: one")))
    registry.open()
    station = registry.stations["pump1"]
    assert station.lines_hz(None) == {"1x": 10.0, "2x": 20.0}
    after = before.replace("bank: one", "limits: {velocity_mm_s: [2.8, 7.1]}, rpm: {topic: a/rpm}, bank: one")
    registry.reload(scene.config(after))
    assert registry.apply_changes()["pump1"] is station
    assert station.lines_hz(None) == {}
    assert station.lines_hz(1200.0) == {"1x": 20.0, "2x": 40.0}
    zones = station.zones
    assert zones is not None
    assert zones.limits_mm_s == (2.8, 7.1)
    registry.reload(scene.config(after.replace("a/rpm", "b/rpm")))
    registry.apply_changes()
    assert station.zones is zones, "what did not change goes on"
    registry.close()


def test_a_new_bank_is_taken_and_a_damaged_one_is_not(scene: Scene, simulated_bank: bytes) -> None:
    registry = scene.registry()
    registry.open()
    station = registry.stations["pump1"]
    path = scene.folder / "one.safetensors"
    path.with_suffix(".part").write_bytes(simulated_bank[:100])
    path.with_suffix(".part").replace(path)
    in_use = station.bank
    registry.take_new_banks()
    registry.apply_changes()
    assert station.bank is in_use
    path.with_suffix(".part").write_bytes(simulated_bank)
    path.with_suffix(".part").replace(path)
    registry.take_new_banks()
    registry.apply_changes()
    wait_for(lambda: station.bank is not in_use, 1, "the bank in use is the new one")
    assert station.bank.sha256 == in_use.sha256
    registry.close()
