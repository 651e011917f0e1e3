"""A comparison shows machines of one kind side by side, and says which one is unlike the others.

Scores come from what the nodes publish while it listens, all else from what the broker keeps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median
from typing import Any

from paho.mqtt.client import MQTTMessage
from rich.table import Table

from echo_stream.cli.common import print_json, print_table
from echo_stream.cli.fleet import Fleet, MachineNow
from echo_stream.cli.plant_broker import KEPT, Plant
from echo_stream.core.errors import ConfigError

LEAST = 3
"""Machines; of two nobody can say which is the odd one."""
SPREADS = 5.0
"""Robust standard deviations (1.4826 times the median of the distances from the median)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that machines of one kind have in common."""

    key: str
    title: str
    least: float
    """Less than this apart is alike, however near each other the rest is."""
    least_share: float = 0.0
    """The same as a share of the median."""
    unit: str = ""


FIGURES = (
    Figure("score_share", "score / trip level", 0.3),
    Figure("trip_level", "trip level", 0.0, least_share=0.5),
    Figure("level_dbfs", "level", 6.0, unit=" dBFS"),
)


def listen(plant: Plant, seconds: float) -> tuple[Fleet, dict[tuple[str, str], list[float]]]:
    """What the broker has of all machines, and the scores of each through its trip level meanwhile.

    Raises:
        DeliveryError: the broker is away, or does not let us in.
    """
    fleet, shares = Fleet(plant.topic_root), dict[tuple[str, str], list[float]]()

    def received(message: MQTTMessage) -> None:
        if fleet.apply(message.topic, bytes(message.payload)) and message.topic.endswith("/score"):
            node, machine = message.topic.split("/")[-3:-1]
            score = fleet.machines[node, machine].score or {}
            if score.get("score") is not None and score.get("threshold"):
                shares.setdefault((node, machine), []).append(score["score"] / score["threshold"])

    with plant.connected((*KEPT, "+/+/score"), received) as connection:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            connection.step(0.1)
    return fleet, shares


def compared(fleet: Fleet, shares: dict[tuple[str, str], list[float]], like: str) -> list[dict[str, Any]]:
    """Machines whose id fits `like`, each with what sets it apart (`unlike`, empty for most).

    Args:
        fleet: what was received.
        shares: scores through the trip level, by node and machine.
        like: a pattern of ids, such as `pump*`.
    """
    found = [
        _figures(now, shares.get(which, []))
        for which, now in sorted(fleet.machines.items())
        if fnmatchcase(now.machine, like)
    ]
    for figure in FIGURES:
        values = [(each, each[figure.key]) for each in found if each[figure.key] is not None]
        if len(values) < LEAST:
            continue
        middle = median(value for _, value in values)
        spread = 1.4826 * median(abs(value - middle) for _, value in values)
        for each, value in values:
            if abs(value - middle) > max(figure.least, figure.least_share * middle, SPREADS * spread):
                each["unlike"].append(
                    f"{figure.title} {value:.3g}{figure.unit}, the others about {middle:.3g}{figure.unit}"
                )
    return found


def _figures(now: MachineNow, shares: Sequence[float]) -> dict[str, Any]:
    score, health, bank, alarm = (each or {} for each in (now.score, now.health, now.bank, now.alarm))
    return {
        "node": now.node,
        "machine": now.machine,
        "scores": len(shares),
        "score_share": median(shares) if shares else None,
        "trip_level": score.get("threshold"),
        "level_dbfs": score.get("level_dbfs", health.get("level_dbfs")),
        "condition": score.get("condition"),
        "state": alarm.get("state"),
        "coverage_10m": health.get("coverage_10m"),
        "bank": bank.get("installed_version"),
        "unlike": [],
    }


def show_comparison(plant: Plant, like: str, seconds: float, as_json: bool) -> None:
    """Listen, and print the machines side by side.

    Raises:
        ConfigError: fewer machines than three have such an id.
        DeliveryError: the broker is away, or does not let us in.
    """
    found = compared(*listen(plant, seconds), like)
    if len(found) < LEAST:
        names = ", ".join(f"{each['node']}/{each['machine']}" for each in found) or "none"
        raise ConfigError(f"--like {like}: {LEAST} machines or more are compared, found {names}")
    if as_json:
        print_json({"like": like, "seconds": seconds, "machines": found})
        return
    titles = [f"{figure.title}{figure.unit and f' ({figure.unit.strip()})'}" for figure in FIGURES]
    table = Table("machine", "node", *titles, "operating state", "state", "bank", "scores")
    for each in found:
        numbers = ["-" if each[f.key] is None else f"{each[f.key]:.3g}" for f in FIGURES]
        words = [each["condition"] or "-", each["state"] or "-", each["bank"] or "-", str(each["scores"])]
        table.add_row(each["machine"], each["node"], *numbers, *words)
    print_table(table, 140)
    for each in found:
        for why in each["unlike"]:
            print(f"{each['machine']} ({each['node']}) is unlike the others: {why}")
    if not any(each["unlike"] for each in found):
        print(f"all {len(found)} are alike")
