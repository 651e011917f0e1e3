"""What changes more at the reference than at the machine is held; a fault that both hear is announced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as Stop

import numpy as np
import pytest
import soundfile

from echo_stream.capture.source import AudioSource
from echo_stream.config.load import load
from echo_stream.core.errors import ConfigError
from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState, Float32, Window
from echo_stream.detect.rises import Rises, more_db
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.elsewhere import Surroundings, louder_at
from echo_stream.pipeline.factory import build_encoder, build_station
from echo_stream.pipeline.loop import listen
from echo_stream.pipeline.sources import open_sources
from echo_stream.pipeline.station import Event, Station
from tests.support.passing import RATE_HZ, forklift, machine_sound
from tests.support.stations import learnt

LEAK = 10 ** (-15 / 20)
"""Of the other machine's sound, at each microphone."""
AT_S, LISTEN_S, LONGEST_S = 60.0, 90.0, 150.0
MACHINES = ("pump1", "pump2")


def config_text(reference: str = "") -> str:
    lines = ["node: pc7", "state_dir: state", "machines:"]
    for machine in MACHINES:
        source = f"{{kind: recording, path: {machine}.wav, pace: fast}}"
        lines.append(f"  - {{id: {machine}, source: {source}, bank: {machine}.safetensors{reference}}}")
    return "\n".join(lines) + "\n"


@dataclass
class Hall:
    """Two machines, each with a microphone that hears the other one, too."""

    folder: Path
    encoder: Encoder

    def write(self, first: Float32, second: Float32, both: tuple[Float32, Float32] | None = None) -> None:
        """What the microphones hear of the machines, and what else they hear."""
        extra = both or (np.zeros_like(first), np.zeros_like(first))
        for name, sound in zip(
            MACHINES, (first + LEAK * second + extra[0], second + LEAK * first + extra[1]), strict=True
        ):
            soundfile.write(self.folder / f"{name}.wav", sound, RATE_HZ, subtype="FLOAT")

    def events(self, reference: str) -> tuple[list[AlarmEvent], dict[str, Station]]:
        (self.folder / "config.yaml").write_text(config_text(reference))
        config = load(self.folder / "config.yaml")
        sources: dict[str, AudioSource] = open_sources(config.machines)
        stations = {m.id: build_station(config, m, sources[m.id], self.encoder) for m in config.machines}
        found: list[AlarmEvent] = []

        def tell(_: Station, event: Event) -> None:
            if isinstance(event, AlarmEvent):
                found.append(event)

        listen(lambda: stations, self.encoder, on_event=tell, observe=lambda _: None, stop=Stop())
        for source in sources.values():
            source.close()
        return found, stations


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Hall:
    folder = tmp_path_factory.mktemp("hall")
    (folder / "config.yaml").write_text(config_text())
    config = load(folder / "config.yaml")
    made = Hall(folder, build_encoder(config))
    made.write(machine_sound(5, 0, 120), machine_sound(6, 0, 120))
    for machine in config.machines:
        learnt(config, machine, folder / f"{machine.id}.wav").bank.save(machine.bank)
    return made


def passing(sound: Float32, near: float, far: float, seconds: float) -> tuple[Float32, Float32]:
    """A forklift from AT_S on, so many dB over the sound at the one and at the other microphone."""
    level = np.sqrt(np.mean(np.square(sound)))
    lift = np.zeros_like(sound)
    at = round(AT_S * RATE_HZ)
    lift[at : at + round(seconds * RATE_HZ)] = level * forklift(seconds, 1)
    return lift * np.float32(10 ** (near / 20)), lift * np.float32(10 ** (far / 20))


def well(seed: int, length_s: float = LISTEN_S) -> Float32:
    """A machine's sound, of which the longest is made once."""
    return machine_sound(seed, 300, LONGEST_S)[: round(length_s * RATE_HZ)]


def raised(events: list[AlarmEvent], machine: str, level: AlarmLevel) -> list[float]:
    return [
        event.at / RATE_HZ
        for event in events
        if event.machine == machine and event.level is level and event.after is AlarmState.UNACK
    ]


def test_what_changes_more_at_the_reference_is_held_and_said(hall: Hall) -> None:
    first, second = well(5), well(6)
    hall.write(first, second, passing(first, 0, 9, 12))
    assert raised(hall.events("")[0], "pump1", AlarmLevel.WARNING), "without a reference it is a warning"
    events, stations = hall.events(", reference: auto")
    assert not raised(events, "pump1", AlarmLevel.WARNING)
    assert raised(events, "pump2", AlarmLevel.WARNING), "where it is louder it is announced"
    held = [event.after for event in events if event.machine == "pump1" and event.cause == "suppress"]
    assert held == [AlarmState.SUPPRESSED]
    around = stations["pump1"].surroundings
    assert around is not None
    assert around.warnings == 1
    assert "sound from elsewhere: it changed more at pump2" in around.why


def test_a_fault_that_the_neighbour_hears_is_announced_at_once(hall: Hall) -> None:
    hall.write(machine_sound(5, 300, LISTEN_S, ((AT_S, LISTEN_S, "rattle"),)), well(6))
    alone, _ = hall.events("")
    events, _ = hall.events(", reference: auto")
    for level in AlarmLevel:
        assert raised(alone, "pump1", level), level
        assert raised(events, "pump1", level) == raised(alone, "pump1", level)


def test_what_stays_is_announced_wherever_it_is_louder(hall: Hall) -> None:
    first, second = well(5, LONGEST_S), well(6, LONGEST_S)
    hall.write(first, second, passing(first, 0, 9, 90))
    events, _ = hall.events(", reference: auto")
    (warned_s,) = raised(events, "pump1", AlarmLevel.WARNING)
    assert AT_S + 20 < warned_s <= AT_S + 60 + 10, "a short past adapts sooner"


def window(sound: Float32, end_s: float, at: datetime, machine: str = "pump1") -> Window:
    start, end = round((end_s - 2) * RATE_HZ), round(end_s * RATE_HZ)
    return Window(machine, sound[start:end], start, end, RATE_HZ, at)


START = datetime(2026, 1, 1, tzinfo=UTC)


def rises_of(sound: Float32, machine: str = "pump1", late_s: float = 0.0) -> Rises:
    found = Rises(1.0)
    for end_s in range(2, len(sound) // RATE_HZ + 1):
        found.add(window(sound, end_s, START + timedelta(seconds=end_s + late_s), machine))
    return found


def test_a_reference_that_is_lost_late_silent_or_at_fault_holds_nothing() -> None:
    quiet = np.random.default_rng(1).standard_normal(60 * RATE_HZ).astype(np.float32) * np.float32(0.01)
    here, there = quiet.copy(), quiet.copy()
    here[57 * RATE_HZ :] *= 2
    there[57 * RATE_HZ :] *= 8
    newest = window(here, 60.0, START + timedelta(seconds=60))

    def louder(there: Rises) -> str:
        places = {"pump1": Surroundings(rises_of(here), 3.0, "hall"), "hall": Surroundings(there, 3.0)}
        return louder_at(newest, places)[0]

    assert louder(rises_of(there, "hall")) == "hall"
    assert louder(rises_of(there, "hall", late_s=1.0)) == "hall", "another phase"
    assert not louder(rises_of(there, "hall", late_s=-10.0)), "its newest windows are too old"
    assert not louder(rises_of(np.zeros_like(there), "hall"))
    at_fault = rises_of(there, "hall")
    at_fault.forget()
    assert not louder(at_fault)
    lost = rises_of(there[: 30 * RATE_HZ], "hall")
    lost.add(window(there, 60.0, START + timedelta(seconds=60)))
    assert not louder(lost), "after 28 s of lost sound nobody knows what is normal there"
    assert louder_at(newest, {"pump1": Surroundings(rises_of(here), 3.0, "hall")}) == ("", 0.0)


def test_two_machines_never_hold_each_other() -> None:
    rng = np.random.default_rng(3)
    quiet = rng.standard_normal((2, 40 * RATE_HZ)).astype(np.float32) * np.float32(0.01)
    for _ in range(20):
        sounds = quiet.copy()
        tail = sounds[:, 38 * RATE_HZ :]
        noise = np.cumsum(rng.standard_normal(tail.shape), axis=1)  # mostly low
        noise *= 0.01 / noise.std()
        white = rng.standard_normal(tail.shape)
        tail += (rng.uniform(0, 3, (2, 1)) * noise + rng.uniform(0, 0.03, (2, 1)) * white).astype(np.float32)
        first, second = (rises_of(each).near(START + timedelta(seconds=40), 0.0) for each in sounds)
        assert first is not None
        assert second is not None
        assert not (more_db(first, second) and more_db(second, first))


AWAY_M = {"pump1": 2.0, "pump2": 5.0, "pump3": 9.0}
"""From what passes to each of three microphones in a hall."""


def ring(at_machines: dict[str, Float32]) -> dict[str, str]:
    """Whom each of three machines names that refer to each other; "": nobody, it is not held."""
    places = {name: Surroundings(rises_of(sound, name), 3.0, "auto") for name, sound in at_machines.items()}
    at = START + timedelta(seconds=60)
    return {name: louder_at(window(sound, 60.0, at, name), places)[0] for name, sound in at_machines.items()}


def at_three() -> tuple[dict[str, Float32], Float32]:
    """60 s of three machines, each as noise at its level, and noise of rms 1 in the last 3 s."""
    rng = np.random.default_rng(8)
    levels = dict(zip(AWAY_M, (0.01, 0.03, 0.02), strict=True))
    own = {
        name: (level * rng.standard_normal(60 * RATE_HZ)).astype(np.float32) for name, level in levels.items()
    }
    noise = np.zeros(60 * RATE_HZ, np.float32)
    noise[57 * RATE_HZ :] = rng.standard_normal(3 * RATE_HZ)
    return own, noise


def test_in_a_ring_of_three_the_one_that_changed_most_is_never_held() -> None:
    own, noise = at_three()
    heard = {name: sound + np.float32(0.3 / AWAY_M[name]) * noise for name, sound in own.items()}
    assert ring(heard) == {"pump1": "", "pump2": "pump1", "pump3": "pump1"}, "the others name it"
    alike = {name: sound + 4 * sound.std() * noise for name, sound in own.items()}
    assert set(ring(alike).values()) == {""}, "all change alike: nobody is held"
    assert ring(own) == dict.fromkeys(own, ""), "nothing changed"


@pytest.mark.parametrize("faulty", list(AWAY_M))
def test_in_a_ring_of_three_a_fault_is_held_nowhere_that_it_began(faulty: str) -> None:
    """The neighbours hear machine and fault 15 dB weaker: it changes most at home."""
    own, noise = at_three()
    fault = 3 * own[faulty].std() * noise
    heard = {name: sound + (1 if name == faulty else LEAK) * fault for name, sound in own.items()}
    assert ring(heard)[faulty] == ""


def test_as_a_source_moves_through_the_hall_the_nearest_machine_announces_it() -> None:
    """Three microphones 5 m apart; of what passes, one at least always announces."""
    own, noise = at_three()
    named = set()
    for at_m in np.arange(-5.0, 16.0, 2.5):
        away_m = {name: np.hypot(at_m - x_m, 2.0) for name, x_m in zip(own, (0.0, 5.0, 10.0), strict=True)}
        heard = {
            name: sound + (0.3 * sound.std() / 0.02 / away_m[name] * noise).astype(np.float32)
            for name, sound in own.items()
        }
        found = ring(heard)
        nearest = min(away_m, key=lambda name: away_m[name])
        assert found[nearest] == "", (at_m, found)
        named |= set(found.values())
    assert named == {"", *own}, "each is named while it passes there"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("pump3", "machines[0].reference: 'pump3' is no machine here"),
        ("pump1", "machines[0].reference: 'pump1' is this machine itself"),
        ("5", "machines[0].reference: "),
    ],
)
def test_a_reference_that_cannot_be_is_refused(tmp_path: Path, reference: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(config_text(f", reference: {reference}"))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.yaml")
    assert said in caught.value.message
    assert caught.value.exit_code == 78
