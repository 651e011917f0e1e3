"""Attacks on the running daemon: SIGKILL at random moments, a flipped bit in each file that it stores.

    python -m benchmarks.attack kills [--minutes 3]
    python -m benchmarks.attack flips [--minutes 3]

kills: a machine breaks and mends all the time, a real mosquitto has a subscriber whose session lasts; the
daemon is killed and started again. At the end no sequence number may be missing, or stand for two events.

flips: a daemon's state, with rows that wait, evidence, history and bank, is damaged by one bit and the daemon
started on it. It must listen or say by exit code 78 why it cannot, deliver, and write no traceback.

What is fuzzed by itself: `FUZZ=30 pytest tests/fuzz tests/config/test_mistakes.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.mqtt.conftest import subscribe
from tests.support.broker import mosquitto
from tests.support.daemon import daemon, run, terminate

CONFIG = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}, discovery_prefix: null}}
evidence: {{pre_roll_s: 1, post_roll_s: 1, min_free_mb: 0}}
machines:
  - id: pump3
    source: {{kind: simulated, seed: 3, sample_rate_hz: 8000, pace: fast, {source}}}
    bank: pump3.safetensors
    alarm: {{on_delay_s: 2, warning_on_delay_s: 1, off_delay_s: 2}}
"""
BREAKS_EVERY_S, BROKEN_S = 40, 12
LISTENS_WITHIN_S = 60.0


def main() -> int:
    """Attack and print; exit code 1 where something broke."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("attack", choices=("kills", "flips"))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    until_s = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        attack = {"kills": kills, "flips": flips}[given.attack]
        found = attack(Path(folder), chance, until_s)
    print(json.dumps(found, indent=1))
    return 1 if found["wrong"] else 0


def prepare(folder: Path) -> None:
    """A fitted bank."""
    configure(folder, "127.0.0.1", 1, "duration_s: 200")
    run(folder, "fit-normal", "--machine", "pump3")


def configure(folder: Path, host: str, port: int, source: str) -> None:
    """Write config.yaml."""
    (folder / "config.yaml").write_text(CONFIG.format(host=host, port=port, source=source))


def faults(from_s: int) -> str:
    """A machine that breaks for some seconds again and again."""
    said = ", ".join(
        f"{{kind: rattle, start_s: {at}, end_s: {at + BROKEN_S}}}"
        for at in range(from_s, from_s + 40 * BREAKS_EVERY_S, BREAKS_EVERY_S)
    )
    return f"faults: [{said}]"


def kills(folder: Path, chance: random.Random, until_s: float) -> dict[str, Any]:
    """SIGKILL at random moments."""
    prepare(folder)
    killed = 0
    with mosquitto(folder, extra="max_inflight_messages 100") as broker:
        heard = subscribe(broker, "echo-stream/pc7/pump3/event", "attack", 3600, clean_start=False)
        configure(folder, broker.host, broker.port, faults(5))
        while time.monotonic() < until_s:
            with daemon(folder) as process:
                time.sleep(chance.uniform(1.5, 9.0))
                process.kill()
            killed += 1
        with daemon(folder) as process:  # what waits is sent
            time.sleep(20)
            code, _ = terminate(process)
        events = [json.loads(message.payload) for message in heard.heard]
        heard.client.disconnect()
        heard.client.loop_stop()
    ids: dict[int, set[str]] = defaultdict(set)
    for event in events:
        ids[event["seq"]].add(event["event_id"])
    wrong = [f"exit code {code}"] if code else []
    wrong += [f"seq {seq} is missing" for seq in range(1, max(ids, default=0) + 1) if seq not in ids]
    wrong += [f"seq {seq} has {len(found)} ids" for seq, found in ids.items() if len(found) > 1]
    wrong += _tracebacks(folder)
    repeated = len(events) - len({event["event_id"] for event in events})
    return {"kills": killed, "events": len(ids), "messages_repeated": repeated, "wrong": wrong}


def flips(folder: Path, chance: random.Random, until_s: float) -> dict[str, Any]:
    """One bit of a stored file, a start, and a look."""
    prepare(folder)
    configure(folder, "127.0.0.1", 1, faults(5))
    with daemon(folder) as process:
        time.sleep(25)
        terminate(process)
    (folder / "log").unlink()
    stored = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    whole = folder.with_name(f"{folder.name}-whole")
    shutil.move(folder, whole)
    results: Counter[str] = Counter()
    wrong: list[str] = []
    try:
        while time.monotonic() < until_s:
            path = stored[sum(results.values()) % len(stored)].relative_to(folder)
            at, bit = chance.randrange((whole / path).stat().st_size), chance.randrange(8)
            shutil.copytree(whole, folder)
            data = bytearray((folder / path).read_bytes())
            data[at] ^= 1 << bit
            (folder / path).chmod(0o600)
            (folder / path).write_bytes(data)
            outcome = _start(folder)
            results[outcome.split(":")[0]] += 1
            if outcome.startswith("wrong"):
                wrong.append(f"{path} byte {at} bit {bit}: {outcome}")
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(whole)
        folder.mkdir(exist_ok=True)
    return {"files": len(stored), "starts": dict(results), "wrong": wrong}


def _start(folder: Path) -> str:
    """What became of a start: `delivered`, `refused`, `degraded`, or `wrong: why`."""
    with mosquitto(folder) as broker:
        text = (
            (folder / "config.yaml")
            .read_text(errors="surrogateescape")
            .replace("port: 1,", f"port: {broker.port},")
        )
        (folder / "config.yaml").write_text(text, errors="surrogateescape")
        heard = subscribe(broker, "echo-stream/pc7/#")
        try:
            with daemon(folder) as process:
                until_s = time.monotonic() + LISTENS_WITHIN_S
                while time.monotonic() < until_s and process.poll() is None:
                    topics = heard.topics()
                    if any(topic.endswith("/event") for topic in topics):
                        return "; ".join(["delivered", *_tracebacks(folder)]).replace(
                            "delivered; ", "wrong: "
                        )
                    if _degraded(folder):
                        return "degraded"
                    time.sleep(0.1)
                if process.poll() is not None:
                    return "refused" if process.poll() in (0, 78) else f"wrong: exit code {process.poll()}"
            return "wrong: neither events nor DEGRADED within a minute"
        finally:
            heard.client.disconnect()
            heard.client.loop_stop()


def _degraded(folder: Path) -> bool:
    return '"a machine cannot be listened to' in _log(folder)


def _tracebacks(folder: Path) -> list[str]:
    said = _log(folder)
    return ["a traceback in the log"] if "Traceback (most recent call last)" in said else []


def _log(folder: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "log").read_text(errors="replace")
    return ""


if __name__ == "__main__":
    sys.exit(main())
