"""doctor: looks at a PC before anything is set up, and at a configuration where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from time import monotonic, sleep

import numpy as np

from echo_stream.build import encoder_of, sources_of
from echo_stream.build_delivery import broker_of
from echo_stream.config import Config, Machine, Microphone
from echo_stream.deliver.mqtt_check import check
from echo_stream.deliver.topics import Topics
from echo_stream.errors import DeliveryError
from echo_stream.pipeline import WAIT_S
from echo_stream.service import doctor
from echo_stream.service.doctor import Check, Heard
from echo_stream.types import AudioBlock, Window

LISTEN_S = 3.0
PATIENCE_S = 6.0
USUAL_RATE_HZ = 48_000


def examine(config: Config) -> Iterator[Check]:
    """All checks, one after the other; the last ones listen for some seconds to each machine."""
    yield doctor.cpu_speed(lambda: _real_time_factor(config), max(1, len(config.machines)))
    yield doctor.disk_space(config.state_dir, config.evidence.max_mb + config.evidence.min_free_mb)
    yield doctor.state_directory(config.state_dir)
    yield doctor.time_sync()
    yield doctor.broker(lambda: _reach_broker(config))
    wanted = [m.source.device for m in config.machines if isinstance(m.source, Microphone)]
    yield doctor.audio_access()
    yield doctor.inputs(_input_names, wanted)
    for machine in config.machines:
        if machine.source.kind != "stdin":
            yield from doctor.sound(machine.id, partial(_listen, machine))


def _real_time_factor(config: Config) -> float:
    """Seconds of work for a second of one machine's sound; the median of some windows."""
    encoder, cut = encoder_of(config), config.encoder
    rate = max((getattr(m.source, "sample_rate_hz", 0) for m in config.machines), default=0) or USUAL_RATE_HZ
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, round(rate * cut.window_s)).astype(np.float32)
    window = Window("doctor", samples, 0, len(samples), rate, datetime.now(UTC))
    spent_s = []
    for _ in range(8):
        began_s = monotonic()
        encoder.encode([window])
        spent_s.append(monotonic() - began_s)
    return float(np.median(spent_s)) / cut.hop_s


def _reach_broker(config: Config) -> str:
    topics = Topics(config.mqtt.topic_root, config.node)
    for step in check(broker_of(config), topics, protocol=config.mqtt.protocol):
        if not step.ok:
            raise DeliveryError(f"{step.name}: {step.found}", step.hint)
    return f"{config.mqtt.host}:{config.mqtt.port} takes what is published"


def _input_names() -> list[str]:
    from echo_stream.capture.devices import list_inputs  # noqa: PLC0415 - PortAudio, only where it is asked for

    return [name for found in list_inputs() for name in (*found.names, found.write)]


def _listen(machine: Machine) -> Heard:
    source = sources_of([machine], patient=False)[machine.id]
    rate, blocks, began_s = source.sample_rate_hz, list[AudioBlock](), monotonic()
    first_s = last_s = began_s
    with closing(source):
        while last_s - first_s < LISTEN_S and not source.ended and monotonic() - began_s < PATIENCE_S:
            block = source.read()
            if block is None:
                sleep(WAIT_S)
                continue
            last_s = monotonic()
            first_s = first_s if blocks else last_s
            blocks.append(block)
    samples = np.concatenate([block.samples[:, 0] for block in blocks]) if blocks else np.zeros(0, np.float32)
    live = getattr(machine.source, "pace", "realtime") == "realtime" and last_s - first_s > LISTEN_S / 2
    measured_hz = (len(samples) - len(blocks[0].samples)) / (last_s - first_s) if live else None
    return Heard(samples, rate, measured_hz)
