"""The whole corridor at real-time pace: many simulated machines, the real daemon, a real mosquitto.

    python -m benchmarks.corridor --machines 100 --rate 48000 --encoder echo-tiny --minutes 10
    python -m benchmarks.corridor --machines 100 --rate 16000 --encoder echo-tiny-gated --precision float32
    python -m benchmarks.corridor --machines 1000 --rate 16000 --encoder spectral --minutes 10
    python -m benchmarks.corridor --daemons 2 --machines 300 --rate 16000 --encoder spectral
    python -m benchmarks.corridor --latency --encoder echo-tiny --rate 48000 --minutes 10
    python -m benchmarks.corridor --growth --encoder spectral
    python -m benchmarks.corridor --scoring

The daemon, the broker, the simulated microphones and this program share the machine's cores. ECHO runs with
random weights of the published size. Run it on a quiet machine; --banks FOLDER keeps the fitted banks.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks import corridor_parts
from benchmarks.plant import ENCODERS, Machines, Plant, Settings, plant, prepare

SETTLE_S = 10.0
RING_S = 40.0
"""So long until every ring of sound is full, and with it the memory."""
COUNTS = (1, 10, 100)
RATES_HZ = (16_000, 48_000, 96_000, 192_000)
FAULT_EVERY_S, FAULT_S = 6.0, 2.5


def steady(settings: Settings, machines: Machines, seconds: float) -> dict[str, Any]:
    """So many machines for so long, after they have settled."""
    with plant(settings, machines) as running:
        time.sleep(SETTLE_S)
        before, cpu_s, broker_s = running.status(), running.cpu_s(), _cpu_s(running.broker)
        messages, sent_bytes = running.traffic.received()
        began_s = time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - began_s
        after, cpu_s = running.status(), running.cpu_s() - cpu_s
        found = running.traffic.received()
        return {
            "machines": machines.count,
            "rate_hz": machines.rate_hz,
            "encoder": settings.encoder,
            "seconds": round(took_s, 1),
            "ready_s": running.ready_s,
            "scored_s": running.scored_s,
            **_heard(before["machines"], after["machines"]),
            **_gated(before["machines"], after["machines"]),
            "cpu_cores": round(cpu_s / took_s, 4),
            "broker_cpu_cores": round((_cpu_s(running.broker) - broker_s) / took_s, 4),
            "rss_mb": round(running.rss_mb(), 1),
            "messages_per_s": round((found[0] - messages) / took_s, 1),
            "bytes_per_s": round((found[1] - sent_bytes) / took_s),
            "outbox_dropped": after["outbox"]["dropped"],
            "outbox_depth": after["outbox"]["depth"],
        }


def _cpu_s(process: Any) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def _heard(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Coverage and losses between two looks at the same machines; lags of the last ten minutes."""

    def sums(key: str) -> list[float]:
        return [new[key] - old[key] for old, new in zip(before, after, strict=True)]

    coverages = [s / e for s, e in zip(sums("scored_s"), sums("elapsed_s"), strict=True)]
    windows = sum(sums("windows_scored"))
    return {
        "windows": round(windows),
        "coverage_lowest": round(min(coverages), 5),
        "coverage_mean": round(statistics.fmean(coverages), 5),
        "hops_skipped": round(sum(sums("hops_skipped"))),
        "samples_lost": round(sum(sums("samples_lost"))),
        "lag_p50_s": statistics.median(machine["lag_p50_s"] for machine in after),
        "lag_p99_s_highest": max(machine["lag_p99_s"] for machine in after),
        "lag_max_s": max(machine["lag_max_s"] for machine in after),
        "due_within_s": _due_within([machine["last_window_at"] for machine in after]),
    }


def _gated(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What ECHO's gate left out between two looks; nothing where there is none."""
    if not after[0]["encoder_gate"]:
        return {}
    encoded, left_out = (
        sum(
            new["encoder_gate"][key] - old["encoder_gate"][key]
            for old, new in zip(before, after, strict=True)
        )
        for key in ("encoded", "left_out")
    )
    return {"gate_encoded": encoded, "gate_left_out": left_out}


def _due_within(ends: Sequence[str]) -> float:
    """The shortest part of a second in which the windows of all machines end: 0 is the worst case."""
    at = sorted(datetime.fromisoformat(end).timestamp() % 1 for end in ends)
    gaps = [b - a for a, b in zip(at, [*at[1:], at[0] + 1], strict=True)]
    return round(1 - max(gaps), 3)


def side_by_side(
    settings: Settings, daemons: int, machines: Machines, seconds: float
) -> list[dict[str, Any]]:
    """So many daemons at once, each with its own folder, broker and machines."""
    folders = [settings.folder / str(i) for i in range(daemons)] if daemons > 1 else [settings.folder]
    own = [replace(settings, folder=folder) for folder in folders]
    for each in own:
        prepare(each, [machines.rate_hz])
    with ThreadPoolExecutor(daemons) as pool:
        return list(pool.map(lambda each: steady(each, machines, seconds), own))


def further_machine_mb(settings: Settings, found: dict[str, Any]) -> float:
    """Memory of each machine beyond the first."""
    one = steady(settings, Machines(1, found["rate_hz"]), RING_S)
    each: float = (found["rss_mb"] - one["rss_mb"]) / (found["machines"] - 1)
    return round(each, 2)


def growth(settings: Settings, rates_hz: Sequence[int], counts: Sequence[int]) -> list[dict[str, Any]]:
    """What a machine costs beside how many others."""
    rows = []
    for rate_hz in rates_hz:
        alone_mb = 0.0
        for count in counts:
            found = steady(settings, Machines(count, rate_hz), RING_S)
            alone_mb = found["rss_mb"] if count == 1 else alone_mb
            each_mb = None if count == 1 else round((found["rss_mb"] - alone_mb) / (count - 1), 2)
            spent_s = found["cpu_cores"] * found["seconds"]
            row = {
                "rate_hz": rate_hz,
                "machines": count,
                "cpu_s_per_machine_and_s": round(found["cpu_cores"] / count, 5),
                "cpu_ms_per_window": round(1e3 * spent_s / max(1, found["windows"]), 3),
                "further_machine_mb": each_mb,
                "rss_mb": found["rss_mb"],
                "coverage_lowest": found["coverage_lowest"],
                "lag_p99_s_highest": found["lag_p99_s_highest"],
            }
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


class Timed:
    """Events that trip, with the time from the last sample of their window to this subscriber."""

    def __init__(self, running: Plant) -> None:
        self.lags_s: list[float] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("echo-stream/+/+/event", qos=1)
        self._client.on_message = self._on_message
        self._client.connect(*running.broker_address)
        self._client.loop_start()

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        now = datetime.now(UTC)
        event = json.loads(message.payload)
        if event["active"] and event["cause"] == "condition":
            self.lags_s.append((now - datetime.fromisoformat(event["ts"])).total_seconds())

    def close(self) -> None:
        """End."""
        self._client.disconnect()
        self._client.loop_stop()


def latency(settings: Settings, rate_hz: int, seconds: float) -> dict[str, Any]:
    """One machine with a fault every few seconds, alarms without a delay, evidence kept as in life."""
    starts = [10 + FAULT_EVERY_S * n for n in range(int(seconds / FAULT_EVERY_S))]
    faults = ", ".join(f"{{kind: rattle, start_s: {at}, end_s: {at + FAULT_S}}}" for at in starts)
    settings.source = f"faults: [{faults}]"
    settings.alarm = "{on_delay_s: 0, off_delay_s: 0}"
    with plant(settings, Machines(1, rate_hz)) as running:
        timed = Timed(running)
        time.sleep(10 + seconds)
        own = running.status()["machines"][0]
        timed.close()
    lags_s = sorted(timed.lags_s)
    if not lags_s:
        raise SystemExit("no window tripped")
    return {
        "encoder": settings.encoder,
        "rate_hz": rate_hz,
        "tripping_windows_announced": len(lags_s),
        "to_subscriber_p50_s": round(statistics.median(lags_s), 4),
        "to_subscriber_p99_s": round(lags_s[-max(1, round(0.01 * len(lags_s)))], 4),
        "to_subscriber_max_s": round(lags_s[-1], 4),
        **{key: own[key] for key in ("lag_p50_s", "lag_p99_s", "lag_max_s")},
    }


def show(found: dict[str, Any], *, as_json: bool) -> None:
    """For a program, or a line a figure."""
    print(json.dumps(found) if as_json else "\n".join(f"{key:28} {value}" for key, value in found.items()))


def main() -> None:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--rate", type=int, default=48_000, metavar="HZ")
    parser.add_argument("--encoder", choices=ENCODERS, default="spectral")
    parser.add_argument("--daemons", type=int, default=1, help="so many side by side, each of --machines")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--hop", type=float, default=1.0, metavar="S")
    parser.add_argument(
        "--precision", default="auto", help="of ECHO; with random weights auto takes float32 (default: auto)"
    )
    parser.add_argument("--banks", type=Path, help="folder that keeps fitted banks for the next run")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--latency", action="store_true", help="one machine, to a subscriber")
    kind.add_argument("--growth", action="store_true", help="1, 10, 100 machines at 16, 48, 96, 192 kHz")
    kind.add_argument("--scoring", action="store_true", help="each part of the corridor beside the encoders")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES_HZ, metavar="HZ", help="of --growth")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, metavar="N", help="of --growth")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the daemon does not outlive this
    with tempfile.TemporaryDirectory(prefix="plant-") as folder:
        settings = Settings(
            Path(folder), given.encoder, given.banks, hop_s=given.hop, precision=given.precision
        )
        if given.scoring:
            show(
                corridor_parts.measure(Path(folder), given.banks, given.rate, given.machines),
                as_json=given.json,
            )
            return
        if given.latency or given.growth:
            prepare(settings, given.rates if given.growth else [given.rate])
        if given.latency:
            show(latency(settings, given.rate, 60 * given.minutes), as_json=given.json)
        elif given.growth:
            rows = growth(settings, given.rates, given.counts)
            if given.json:
                print(json.dumps(rows))
        else:
            machines, seconds = Machines(given.machines, given.rate), 60 * given.minutes
            for found in side_by_side(settings, given.daemons, machines, seconds):
                if given.machines > 1 and given.daemons == 1:
                    found["further_machine_mb"] = further_machine_mb(settings, found)
                show(found, as_json=given.json)


if __name__ == "__main__":
    main()
