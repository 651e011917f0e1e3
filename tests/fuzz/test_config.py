"""Any text is a configuration, or a ConfigError that names the file and a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from echo_stream.config.load import load
from echo_stream.config.schema import Config
from echo_stream.core.errors import ConfigError
from tests.support.damage import damaged, fuzz, twisted

EXAMPLE = (Path(__file__).parents[2] / "config.yaml").read_bytes()
TREE: dict[str, Any] = {
    "node": "pc7",
    "state_dir": "state",
    "encoder": {"kind": "echo", "size": "tiny", "weights": "w.safetensors", "window_s": 2.0, "hop_s": 1.0},
    "mqtt": {
        "host": "localhost",
        "port": 1883,
        "username": "u",
        "password_file": "p",
        "tls": {"enabled": True, "ca_file": "ca.pem"},
        "topic_root": "echo-stream",
        "protocol": 5,
        "discovery_prefix": None,
    },
    "machines": [
        {
            "id": "a",
            "name": "A",
            "source": {"kind": "microphone", "device": "x", "channel": 0, "sample_rate_hz": 48000},
            "bank": "a.safetensors",
            "alarm": {"on_delay_s": 3, "realarm_s": 5, "latching": True},
        },
        {"id": "b", "source": {"kind": "recording", "path": "x.flac", "pace": "fast"}, "bank": "b"},
        {
            "id": "f",
            "source": {"kind": "udp", "sender": "::1", "host": "::", "port": 5, "sample_rate_hz": 16000},
            "bank": "f",
        },
        {"id": "e", "source": {"kind": "command", "argv": ["cat"], "sample_rate_hz": 16000}, "bank": "d"},
        {"id": "c", "source": {"kind": "stdin", "sample_rate_hz": 16000, "format": "s16le"}, "bank": "c"},
        {
            "id": "d",
            "source": {
                "kind": "simulated",
                "seed": 3,
                "duration_s": 5,
                "faults": [{"kind": "rattle", "start_s": 1, "end_s": 2}],
            },
            "bank": "d",
        },
    ],
    "evidence": {"enabled": True, "max_mb": 5},
    "outbox": {"max_rows": 100},
    "metrics_port": 9464,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "config.yaml"


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        config = load(path)
    except ConfigError as error:
        refused = error
    else:
        assert isinstance(config, Config)
        assert all("\x00" not in str(machine.bank) for machine in config.machines)
        return
    assert refused.hint
    assert [line for line in refused.message.split("\n") if not line.startswith(str(path))] == []


@fuzz(200)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_text(path: Path, data: bytes) -> None:
    check(path, data)


@fuzz(200)
@given(damaged(EXAMPLE))
def test_a_damaged_file(path: Path, data: bytes) -> None:
    check(path, data)


@fuzz(250)
@given(twisted(TREE))
@example(TREE)
def test_odd_values(path: Path, tree: Any) -> None:
    check(path, yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace"))


@fuzz(150)
@given(
    st.lists(
        st.sampled_from(
            [
                *"[]{}:,&*!|>%@`\"'#-?\n ~",
                "&a",
                "*a",
                "<<: ",
                "- ",
                "? ",
                "!!binary ",
                "!!set ",
                "!!timestamp ",
                "node",
                "machines",
                "id",
                "source",
                "kind",
                ": ",
                "2026-01-01",
                "0x",
                "1e",
                ".nan",
                "\t",
                "---\n",
            ]
        ),
        max_size=40,
    ).map("".join)
)
def test_what_means_something_in_yaml(path: Path, text: str) -> None:
    check(path, text.encode())


def test_the_tree_is_right(path: Path) -> None:
    path.write_text(yaml.safe_dump(TREE))
    assert len(load(path).machines) == len(TREE["machines"])
