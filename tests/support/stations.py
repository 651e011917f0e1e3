"""Real stations of simulated machines, made in this process: source, bank, scorer, alarms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from echo_stream.config.load import load
from echo_stream.config.schema import Config, Machine
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.factory import build_encoder, build_station
from echo_stream.pipeline.sources import open_sources
from echo_stream.pipeline.station import Station
from tests.support.daemon import fitted

if TYPE_CHECKING:
    from echo_stream.fit.learn import Learnt

RATE_HZ = 8000
NORMAL = "duration_s: 100"
FAULTY = "duration_s: 100, faults: [{kind: rattle, start_s: 5, end_s: 60}]"


def write_config(folder: Path, source: str = NORMAL, machines: tuple[str, ...] = ("pump1",)) -> Config:
    """A configuration of simulated machines that share the bank folder/bank.safetensors."""
    lines = ["node: pc7", "state_dir: state", "evidence: {enabled: false}", "machines:"]
    for machine in machines:
        simulated = f"{{kind: simulated, seed: 3, sample_rate_hz: {RATE_HZ}, pace: fast, {source}}}"
        alarm = "{on_delay_s: 2, warning_on_delay_s: 1, off_delay_s: 2}"
        lines.append(f"  - {{id: {machine}, source: {simulated}, bank: bank.safetensors, alarm: {alarm}}}")
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    return load(folder / "config.yaml")


def fit_bank(folder: Path) -> bytes:
    """A bank of the simulated machine, fitted by the command."""
    write_config(folder)
    fitted(folder, (folder / "config.yaml").read_text(), "pump1")
    return (folder / "bank.safetensors").read_bytes()


def build_stations(folder: Path, bank: bytes, config: Config) -> tuple[dict[str, Station], Encoder]:
    """The stations of a configuration, by machine id, and the encoder that they share."""
    (folder / "bank.safetensors").write_bytes(bank)
    encoder, sources = build_encoder(config), open_sources(config.machines)
    made = {m.id: build_station(config, m, sources[m.id], encoder) for m in config.machines}
    return made, encoder


def learnt(
    config: Config, machine: Machine, *paths: Path, minutes: float = 1.0, trimmed: bool = True
) -> Learnt:
    """What a fit learns, without version, kept sound, smallest faults and report.

    Of recordings; where none are named, of so many minutes of the machine's own source.
    """
    from echo_stream.fit.fit import own_source, recordings
    from echo_stream.fit.learn import learn

    encoder = build_encoder(config, machine)
    hear = recordings(config, machine, paths) if paths else own_source(config, machine, minutes)
    heard = hear(encoder=encoder, condition="normal", others=[], progress=lambda *_: None)
    heard = replace(heard, probes=())  # to try faults on them takes longer than all the rest
    return learn(config, machine, encoder, heard, [], condition="normal", trimmed=trimmed)
