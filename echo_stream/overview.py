"""How the daemon is, in one snapshot, for the status socket, Prometheus and MQTT. Any thread."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from echo_stream import __version__
from echo_stream.capture.sources import AudioSource
from echo_stream.capture.supervised import Supervised
from echo_stream.config import Config
from echo_stream.deliver.mqtt import Publisher
from echo_stream.errors import EchoStreamError
from echo_stream.pipeline import Station


def overview(
    config: Config, stations: Mapping[str, Station], publisher: Publisher, *, since_s: float, alive: bool
) -> dict[str, Any]:
    """The daemon's state as plain JSON; no secret is in it.

    Args:
        config: what runs.
        stations: by machine id.
        publisher: the MQTT side.
        since_s: monotonic time of the start.
        alive: the pipeline makes progress, or waits by design.
    """
    now_s = monotonic()
    counters = publisher.counters()
    return {
        "version": __version__,
        "node": config.node,
        "uptime_s": round(now_s - since_s, 1),
        "alive": alive,
        "encoder": config.encoder.kind,
        "broker": {
            "connected": counters.connected,
            "host": config.mqtt.host,
            "port": config.mqtt.port,
            "published": counters.published,
            "last_error": counters.last_error,
        },
        "outbox": {"depth": counters.outbox_depth, "dropped": counters.dropped},
        "machines": [_machine(station, now_s) for station in stations.values()],
    }


def capture_of(station: Station) -> str:
    """How the machine's source is: waiting (never heard yet), running, lost, or ended."""
    source = station.ear.source
    if source.ended:
        return "ended"
    device = _device(station)
    return device.state if isinstance(device, Supervised) else "running"


def reason_of(station: Station) -> EchoStreamError | None:
    """Why there is no sound; None where there is."""
    device = _device(station)
    return device.last_error if isinstance(device, Supervised) else None


def _device(station: Station) -> AudioSource:
    """What a view of one channel belongs to."""
    source = station.ear.source
    return getattr(source, "source", source)


def _machine(station: Station, now_s: float) -> dict[str, Any]:
    capture = capture_of(station)
    return {
        **station.health.snapshot(now_s),
        "listening": capture == "running",
        "capture": capture,
        "device": station.ear.source.description,
        "bank": station.bank_id,
        "alarms": {a.level.value: {"state": a.state.value, "active": a.active} for a in station.alarms},
    }
