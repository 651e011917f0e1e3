"""Alert rules and dashboard ask only for metrics and labels that a daemon with a machine really has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from echo_stream.core.types import AlarmLevel
from echo_stream.daemon.overview import Parts, overview
from tests.daemon.test_overview import Scene
from tests.support.stations import build_stations, write_config

ROOT = Path(__file__).parents[2]
RULES = ROOT / "contrib" / "prometheus-rules.yaml"
DASHBOARD = ROOT / "contrib" / "grafana-dashboard.json"
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus itself adds."""

Labels = dict[str, set[str]]
"""Values of each label."""


@pytest.fixture(scope="module")
def offered(simulated_bank: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Labels]:
    """What /metrics of the daemon's parts says after 100 s of a machine: labels by metric."""
    folder = tmp_path_factory.mktemp("metrics")
    stations, encoder = build_stations(folder, simulated_bank, write_config(folder))
    (station,) = stations.values()
    station.reader.live = False
    while (window := station.reader.window()) is not None:
        (features,) = encoder.encode([window])
        score = station.scorer.score_one(features)
        station.health.scored(window, score, spent_s=0.01, lag_s=0.1, now_s=monotonic())
        list(station.judge((window, score)))

    class Heard(Scene):
        def overview(self) -> dict[str, Any]:
            parts = Parts(
                self.publisher,
                self.state_dir,
                self.evidence,
                self.history.counters,
                [self.evidence.thread.guard],
            )
            found = overview(self.config, stations, {}, parts, computed_by="numpy", since_s=0.0, alive=True)
            (machine,) = found["machines"]
            assert machine["trips"].keys() == {level.value for level in AlarmLevel}
            return found

    with ExitStack() as stack:
        scene = Heard(folder, stack)
        scene.start()
        with urlopen(f"http://127.0.0.1:{scene.metrics.port}/metrics", timeout=60) as reply:
            text = reply.read().decode()
    found: dict[str, Labels] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def problems(expression: str, shown: str, offered: dict[str, Labels]) -> list[str]:
    """What an expression, and the text beside it, name that is not offered."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = re.findall(r"\b(echo_stream_\w+|process_\w+|up)\b", bare)
    wrong = [] if names else [f"no metric in {expression}"]
    for name in names:
        if name not in offered and name != "up":
            wrong.append(f"no metric {name}")
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        for label, how, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
            if label in OF_PROMETHEUS:
                continue
            values = offered.get(name, {}).get(label)
            if values is None:
                wrong.append(f"no label {label} of {name}")
            elif how == "=" and "$" not in value and value not in values:
                wrong.append(f"no value {value} of {label} of {name}")
    has = OF_PROMETHEUS.union(*(offered.get(name, {}) for name in names))
    return wrong + [f"{shown}: no label {label}" for label in set(re.findall(r"\w+", shown)) - has]


def rules() -> Iterator[tuple[str, str]]:
    """Expression of each rule, and the labels that its texts show."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            texts = " ".join(rule["annotations"].values())
            yield rule["expr"], " ".join(re.findall(r"\$labels\.(\w+)", texts))


def panels() -> Iterator[tuple[str, str]]:
    """Expression of each curve, and the labels that its legend shows."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"], " ".join(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))


def test_the_rules_ask_for_what_there_is(offered: dict[str, Labels]) -> None:
    found = list(rules())
    assert len(found) > 10
    assert [each for rule in found for each in problems(*rule, offered)] == []


def test_the_dashboard_asks_for_what_there_is(offered: dict[str, Labels]) -> None:
    found = list(panels())
    assert len(found) > 10
    assert [each for panel in found for each in problems(*panel, offered)] == []
    board = json.loads(DASHBOARD.read_text())
    variables = {each["name"]: each for each in board["templating"]["list"]}
    for each in variables.values():
        if each["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", each["definition"])
            assert asked
            assert problems(asked[1], asked[2], offered) == []
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"])))
    assert used == variables.keys()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "expression",
    [
        "echo_stream_scores",
        'echo_stream_anomaly_score{engine="a"}',
        'echo_stream_alarm_active{level="severe"} == 1',
        "1 == 1",
    ],
)
def test_what_is_not_offered_is_found(offered: dict[str, Labels], expression: str) -> None:
    assert problems(expression, "", offered)
    assert problems("echo_stream_degraded", "machine", offered)


def test_the_new_figures_are_there(offered: dict[str, Labels]) -> None:
    assert offered["echo_stream_trip_level"]["level"] == {"alarm", "warning"}
    for name in ("slow_minute_score", "slow_usual_score", "slow_evidence_ratio", "drifting"):
        assert offered[f"echo_stream_{name}"]["machine"] == {"pump1"}
    assert offered["echo_stream_source_losses_total"]["machine"] == {"pump1"}
    assert "echo_stream_evidence_bytes" in offered


def test_every_metric_of_ours_is_in_the_docs(offered: dict[str, Labels]) -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    table = text.split("| metric | labels |")[1].split("\n\n")[0]
    said = set(re.findall(r"`([a-z_0-9]+)`", table))
    ours = [name for name in offered if name.startswith("echo_stream_")]
    assert [n for n in ours if not any(n.endswith(each) for each in said)] == []


def test_promtool_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("PROMETHEUS RULES NOT CHECKED BY PROMTOOL: it is not installed")
    done = subprocess.run(
        [promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
