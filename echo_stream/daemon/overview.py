"""The overview says how the daemon is: one snapshot for status, Prometheus, MQTT and systemd. Any thread.

`degraded` lists, in sentences, everything by which the daemon does less than it should; it is empty where all
is well. The counters beside it say how often each happened since the start. No secret is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from echo_stream import __version__
from echo_stream.alarm.outlook import Outlook
from echo_stream.config.schema import Config
from echo_stream.core.guard import Guard
from echo_stream.daemon.state_directory import StateDirectory
from echo_stream.daemon.stations import FailedMachine
from echo_stream.evidence.recorder import Evidence
from echo_stream.history.store import HistoryCounters
from echo_stream.mqtt.publisher import Publisher
from echo_stream.mqtt.speeds import Speed
from echo_stream.pipeline.health import Health
from echo_stream.pipeline.station import Station

if TYPE_CHECKING:
    from echo_stream.daemon.notify import Receiver
    from echo_stream.daemon.transfers import Transfers


@dataclass(frozen=True, slots=True)
class Parts:
    """What the overview asks."""

    publisher: Publisher
    state_dir: StateDirectory
    evidence: Evidence | None
    history: HistoryCounters | None
    guards: Sequence[Guard]
    """Of all threads."""
    receivers: Sequence[Receiver] = ()
    troubles: Sequence[str] = ()
    """Further sentences: what else could not be begun."""
    transfers: Transfers | None = None


def overview(
    config: Config,
    stations: Mapping[str, Station],
    failed: Mapping[str, FailedMachine],
    parts: Parts,
    *,
    computed_by: str,
    since_s: float,
    alive: bool,
) -> dict[str, Any]:
    """The daemon's state as plain JSON.

    Args:
        config: what runs.
        stations: by machine id.
        failed: machines that cannot be listened to, by id.
        parts: what else runs.
        computed_by: library and precision of the encoder.
        since_s: monotonic time of the start.
        alive: the pipeline makes progress, or waits by design.
    """
    now_s = monotonic()
    counters, outbox = parts.publisher.counters(), parts.publisher.outbox
    machines = [
        *(_machine(station, parts.publisher.speed(machine), now_s) for machine, station in stations.items()),
        *(_failed_machine(each, config.encoder.hop_s, now_s) for each in failed.values()),
    ]
    return {
        "version": __version__,
        "node": config.node,
        "uptime_s": round(now_s - since_s, 1),
        "alive": alive,
        "degraded": degraded(stations, failed, parts),
        "encoder": config.encoder.kind,
        "encoder_computed_by": computed_by,
        "broker": {
            "connected": counters.connected,
            "host": config.mqtt.host,
            "port": config.mqtt.port,
            "published": counters.published,
            "connections": counters.connections,
            "last_error": counters.last_error,
        },
        "outbox": {
            "depth": counters.outbox_depth,
            "dropped": counters.dropped,
            "unsaved": counters.outbox_unsaved,
            "damaged": outbox.damaged,
            "refusals": outbox.refusals,
            "trouble": outbox.trouble,
        },
        "state_dir": {"path": str(config.state_dir), "trouble": parts.state_dir.trouble},
        "evidence": parts.evidence and _evidence(parts.evidence),
        "history": parts.history and _history(parts.history),
        "plant": parts.transfers and parts.transfers.to_json(),
        "notify": [receiver.to_json() for receiver in parts.receivers],
        "threads": [_thread(guard) for guard in parts.guards],
        "machines": machines,
    }


def degraded(stations: Mapping[str, Station], failed: Mapping[str, FailedMachine], parts: Parts) -> list[str]:
    """What is not as it should be, in sentences, what matters most first; quick, also of a thousand machines.

    Args:
        stations: by machine id.
        failed: machines that cannot be listened to, by id.
        parts: what else runs.
    """
    reasons = [f"{machine}: {each.reason}" for machine, each in failed.items()]
    for machine, station in stations.items():
        if (error := station.reader.source.last_error) is not None:
            reasons.append(f"{machine}: {error.message}")
    for guard in parts.guards:
        if guard.degraded:
            said = f"{guard.part} failed and is restarted ({guard.restarts} times): {guard.last_error}"
            reasons.append(said)
    counters = parts.publisher.counters()
    if not counters.connected and counters.last_error:
        reasons.append(f"no connection to the broker: {counters.last_error}")
    reasons += filter(None, (parts.state_dir.trouble, parts.publisher.outbox.trouble))
    if parts.evidence and parts.evidence.trouble:
        reasons.append(f"evidence cannot be kept: {parts.evidence.trouble}")
    if parts.history and parts.history.last_error:
        reasons.append(f"history cannot be written: {parts.history.last_error}")
    if parts.transfers and parts.transfers.trouble:
        reasons.append(parts.transfers.trouble)
    for told in (receiver.to_json() for receiver in parts.receivers):
        if told["trouble"]:
            reasons.append(f"{told['waiting']} notifications wait for {told['to']}: {told['trouble']}")
    return [*reasons, *parts.troubles]


def _thread(guard: Guard) -> dict[str, Any]:
    return {
        "part": guard.part,
        "restarts": guard.restarts,
        "degraded": guard.degraded,
        "last_error": guard.last_error,
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    return {
        "kept": evidence.kept,
        "failed": evidence.failed,
        "bytes": evidence.bytes,
        "trouble": evidence.trouble,
    }


def _history(counters: HistoryCounters) -> dict[str, Any]:
    return {
        "written": counters.written,
        "dropped": counters.dropped,
        "waiting": counters.waiting,
        "trouble": counters.last_error or "",
    }


def _machine(station: Station, speed: Speed | None, now_s: float) -> dict[str, Any]:
    capture = station.reader.source.state
    return {
        **station.health.snapshot(now_s),
        "listening": capture == "running",
        "capture": capture,
        "reason": reason.message if (reason := station.reader.source.last_error) else "",
        "device": station.reader.source.description,
        "bank": station.bank_id,
        "reference": station.surroundings and station.surroundings.reference,
        "warnings_held": station.surroundings.warnings if station.surroundings else 0,
        "alarms_held": station.ways.held,
        "new_steady_state": station.steady.said,
        "measured": {name: float(f"{value:.5g}") for name, value in station.measured.items()} or None,
        "zone": station.zone,
        "encoder_gate": station.encoder_gate and station.encoder_gate.counts(),
        "speed": speed and speed.to_json(),
        "known_sounds": station.gate.known_sounds(station.scorer),
        "alarms": {a.level.value: {"state": a.state.value, "active": a.active} for a in station.alarms},
        "losses": station.reader.source.losses,
        "trips": dict(station.trips),
        "drifting": station.drifting,
        **_slow(station.outlook),
        "outlook": station.outlook and station.outlook.to_json(),
    }


def _slow(outlook: Outlook | None) -> dict[str, Any]:
    """What the slow way looks at; nothing before the first window."""
    if outlook is None:
        return {}
    return {
        "slow_minute": outlook.slow_minute,
        "slow_usual": outlook.slow_usual,
        "slow_evidence": outlook.slow_evidence,
    }


def _failed_machine(failed: FailedMachine, hop_s: float, now_s: float) -> dict[str, Any]:
    return {
        **Health(failed.machine.id, hop_s, now_s).snapshot(now_s),
        "listening": False,
        "capture": "failed",
        "reason": failed.reason,
        "device": failed.machine.source.kind,
        "bank": "",
        "new_steady_state": False,
        "warnings_held": 0,
        "alarms_held": 0,
        "alarms": {},
        "outlook": None,
    }
