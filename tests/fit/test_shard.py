"""Shards of an archive on several PCs: the last one puts together what one PC alone would have made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.cli.evaluate import run_evaluate
from echo_stream.core.errors import ConfigError, Failures, ShardDone
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit.archive import Part, parts_of
from echo_stream.fit.archive_jobs import Encoded, encode_parts
from echo_stream.fit.shard import Shard

RATE = 4_000
ENCODER = SpectralEncoder(2.0)


def nothing(*_: object) -> None:
    """Progress that nobody sees."""


@pytest.fixture
def parts(tmp_path: Path) -> list[Part]:
    """Of seven recordings."""
    (tmp_path / "sound").mkdir()
    for n, samples in enumerate(0.1 * np.random.default_rng(3).standard_normal((7, 6 * RATE))):
        soundfile.write(tmp_path / f"sound/{n}.flac", samples, RATE)
    paths = sorted((tmp_path / "sound").iterdir())
    return [part for path in paths for part in parts_of(path, window_s=2.0, hop_s=1.0)]


def bits(encoded: list[Encoded]) -> list[object]:
    return [
        (part.failed, [(s, f.window.tobytes(), f.segments.tobytes()) for s, f in part.windows])
        for part in encoded
    ]


def test_the_last_shard_puts_all_together(parts: list[Part], tmp_path: Path) -> None:
    damaged = parts[1].path
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    alone = list(encode_parts(parts, ENCODER, failures=Failures()))
    kept = tmp_path / "kept"
    with pytest.raises(
        ShardDone, match=r"its 3 parts .*; 4 of 7 parts are missing, of shards 2 \(2\), 3 \(2\)\n"
    ):
        Shard(1, 3, kept).compute(parts, ENCODER, nothing)
    with pytest.raises(ShardDone, match=r"1 recordings cannot be read\); 2 of 7 parts are missing") as raised:
        Shard(2, 3, kept).compute(parts, ENCODER, nothing)
    assert raised.value.exit_code == 0
    Shard(3, 3, kept).compute(parts, ENCODER, nothing)  # the damaged one keeps nobody waiting
    done = {path: path.stat().st_mtime_ns for path in kept.glob("*.safetensors")}
    assert len(done) == 6
    Shard(1, 3, kept).compute(parts, ENCODER, nothing)  # nor is anything done again
    failures = Failures()
    together = list(encode_parts(parts, ENCODER, resume=kept, failures=failures))
    assert bits(together) == bits(alone)
    assert failures.count == 1
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_scores_are_those_of_one_pc(
    parts: list[Part], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for n, part in enumerate(parts):
        path = (
            tmp_path / "m" / ("train" if n < 4 else "test") / f"{'anomaly_x' if n > 5 else 'normal'}_{n}.flac"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(part.path)
    said = []
    run_evaluate(Path("m"), None, True, None, None, None, True)
    said.append(json.loads(capsys.readouterr().out))
    with pytest.raises(
        ShardDone, match=r"its 4 parts are in kept; 3 of 7 parts are missing, of shards 2 \(3\)"
    ):
        run_evaluate(Path("m"), None, True, Path("kept"), None, "1/2", True)
    assert capsys.readouterr().out == ""
    run_evaluate(Path("m"), None, True, Path("kept"), None, "2/2", True)
    said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/2/3"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ConfigError, match="is no share"):
        Shard.parse(text, Path("kept"))


def test_a_share_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="needs a folder"):
        Shard.parse("1/2", None)
    assert Shard.parse("2/2", Path("kept")) == Shard(2, 2, Path("kept"))
