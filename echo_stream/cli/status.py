"""status asks the running daemon and shows its answer as a table."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.table import Table

from echo_stream.cli.common import print_json, print_table, read_config
from echo_stream.core.errors import EchoStreamError
from echo_stream.core.measures import MEASURES
from echo_stream.daemon.status import ask, find_socket

MOST_OUTLOOKS = 8
"""Machines of which all is told in words; --json tells it of all."""


def show_status(config: Path | None, as_json: bool) -> None:
    """Ask the daemon that runs with this configuration, and print what it says.

    Raises:
        EchoStreamError: It does not answer, or its pipeline makes no progress: a restart helps. So the
            exit code is a health check, for which a microphone or broker that is away is no fault.
    """
    found = ask(find_socket(read_config(config).state_dir))
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found["alive"]:
        raise EchoStreamError(
            "the daemon answers, but its pipeline makes no progress",
            "systemd's watchdog restarts it by itself; elsewhere restart it and look at the end of its log",
        )


def _print(found: dict[str, Any]) -> None:
    broker, uptime = found["broker"], timedelta(seconds=round(found["uptime_s"]))
    link = "connected" if broker["connected"] else f"AWAY ({broker['last_error'] or 'not yet connected'})"
    print(f"echo-stream {found['version']} on {found['node']}, up {uptime}, encoder {found['encoder']}")
    print(f"broker {broker['host']}:{broker['port']} {link}; {_counts(found)}")
    if gated := [each for machine in found["machines"] if (each := machine.get("encoder_gate"))]:
        encoded, left_out = (sum(each[key] for each in gated) for key in ("encoded", "left_out"))
        print(
            f"ECHO encoded {encoded} windows and left out {left_out} that sounded normal: "
            f"{(encoded + left_out) / max(1, encoded):.1f} times less work"
        )
    table = Table("machine", "alarm", "warning", "score", "coverage", "level", "sound", "real-time factor")
    for machine in found["machines"]:
        states = [machine["alarms"].get(level, {}).get("state", "-") for level in ("alarm", "warning")]
        numbers = [
            _shown(machine["score"], ".2f"),
            _shown(machine["coverage_10m"], ".3f"),
            _shown(machine["level_dbfs"], ".1f", " dBFS"),
        ]
        factor = _shown(machine["real_time_factor"], ".4f")
        table.add_row(machine["machine"], *states, *numbers, machine["capture"], factor)
    print_table(table, 120)
    for machine in found["machines"][:MOST_OUTLOOKS]:
        if outlook := machine.get("outlook"):  # none of an older daemon, nor before the first window
            print(f"{machine['machine']}, set to {outlook['false_alarms_per_month']:g} false alarms a month:")
            print(*(f"  {line}" for line in outlook["known"]), sep="\n")
    for machine in found["machines"]:
        _print_heard(machine)
    for machine in found["machines"]:
        if enrolling := machine.get("enrolling"):
            of, stage = " and ".join(enrolling["conditions"]), enrolling["stage"]
            far = (
                f"{enrolling['progress']:.0%} heard"
                if stage in ("listening", "paused")
                else enrolling["said"]
            )
            banks = ", ".join(fit["bank"] for fit in enrolling["fits"])
            print(f"{machine['machine']}: enrolment of {of}: {' '.join(filter(None, (stage, banks, far)))}")
    for machine in found["machines"][:MOST_OUTLOOKS]:
        probation = machine.get("probation") or {}
        if probation.get("provisional") and machine["bank"]:  # what has none is said below
            print(
                f"{machine['machine']}: its bank is provisional: heard {probation['heard_h']:.1f} h on "
                f"{probation['heard_days']} days, {probation['missing_h']:.1f} h and "
                f"{probation['missing_days']} days are missing; then: "
                f"echo-stream bank propose --machine {machine['machine']}"
            )
    for each in found.get("notify", ()):
        lost = "".join(f", {each[key]} {key}" for key in ("refused", "dropped") if each[key])
        print(f"notify {each['to']} on {each['on']}: {each['sent']} sent, {each['waiting']} wait{lost}")
    for reason in found.get("degraded", ()):
        print(f"DEGRADED: {reason}")


def _print_heard(machine: dict[str, Any]) -> None:
    """That its sound is a new steady one, what a calibrated sensor measures, and its speed."""
    if machine.get("new_steady_state"):
        print(
            f"{machine['machine']}: new steady state: it sounds otherwise, and the same for a minute: a "
            "fault, or another load, speed or product; if it is normal, the event says what learns it"
        )
    if measured := machine.get("measured"):
        told = (
            f"{text} {measured[n]:.3g} {unit}".strip()
            for n, (text, unit) in MEASURES.items()
            if n in measured
        )
        zone = f"; zone {machine['zone']}" if machine.get("zone") else ""
        print(f"{machine['machine']}: {'; '.join(told)}{zone}")
    if speed := machine.get("speed"):
        bad = f"; unreadable messages: {speed['bad']}" if speed["bad"] else ""
        print(f"{machine['machine']}: speed {speed['text']}{bad}")


def _counts(found: dict[str, Any]) -> str:
    """How much waits, and what was lost since the start, where something was."""
    # A daemon of an older version, before it is started anew, does not say all of it.
    outbox, evidence, history = (found.get(part) or {} for part in ("outbox", "evidence", "history"))
    restarts = sum(thread["restarts"] for thread in found.get("threads", ()))
    lost = {
        "not on disk": outbox.get("unsaved", 0),
        "dropped": outbox.get("dropped", 0),
        "damaged": outbox.get("damaged", 0),
        "alarms without evidence": evidence.get("failed", 0),
        "minutes without history": history.get("dropped", 0),
        "restarts of a part": restarts,
    }
    return "; ".join([f"outbox {outbox['depth']}", *(f"{n} {what}" for what, n in lost.items() if n)])


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
