"""Detection beside simple and published ways, in one run: AUC and pAUC (0.1) of clips, a machine a row.

    python -m benchmarks.detection DIR [--weights FILE --size tiny] [--json]

DIR holds machines in the layout of DCASE task 2, as `echo-stream evaluate` reads it. Every way fits on the
training clips alone and gives each test clip one score. With --weights, ours and SIREN's recipe use ECHO.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.detection_autoencoder import autoencoder
from echo_stream.cli.evaluate import auc, evaluate, partial_auc
from echo_stream.core.types import Window
from echo_stream.encode.encoder import Encoder, make_encoder
from echo_stream.pipeline.loop import encode_windows

Float64 = NDArray[np.float64]
Sound = tuple[Float64, int]
"""Samples (n,) and their rate in Hz."""
BANDS = 48
FRAME_S = 0.064


def level_only(train: Sequence[Sound], test: Sequence[Sound]) -> Float64:
    """How far a clip's level is from the median of the training clips', in dB."""
    levels_db = [np.array([20 * np.log10(np.std(x) + 1e-12) for x, _ in clips]) for clips in (train, test)]
    return np.asarray(np.abs(levels_db[1] - np.median(levels_db[0])))


def log_band(train: Sequence[Sound], test: Sequence[Sound]) -> Float64:
    """The 24 lines: mean and deviation of 48 logarithmic bands, standardised, nearest training clip."""
    known, asked = (np.stack([log_bands(x, rate) for x, rate in clips]) for clips in (train, test))
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-9
    known, asked = (known - mean) / deviation, (asked - mean) / deviation
    return np.asarray(np.linalg.norm(asked[:, None] - known, axis=2).min(axis=1))


def log_band_level_free(train: Sequence[Sound], test: Sequence[Sound]) -> Float64:
    """The same, after each clip was divided by its root mean square."""

    def even(clips: Sequence[Sound]) -> list[Sound]:
        return [(x / (np.std(x) + 1e-12), rate) for x, rate in clips]

    return log_band(even(train), even(test))


def log_bands(samples: Float64, rate: int) -> Float64:
    """Mean and deviation (2 * bands,) of logarithmic bands of frames of 64 ms."""
    n = round(FRAME_S * rate)
    frames = np.lib.stride_tricks.sliding_window_view(samples, n)[:: n // 2] * np.hanning(n)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.geomspace(1, power.shape[1] - 1, BANDS + 1).round().astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-12)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])


def siren(encoder: Encoder) -> Callable[[Sequence[Sound], Sequence[Sound]], Float64]:
    """SIREN's recipe: cosine distance to the nearest, over the concatenated bands of the whole clip."""

    def flat(clips: Sequence[Sound]) -> Float64:
        rows = []
        for samples, rate in clips:
            cut = Window("", samples.astype(np.float32), 0, len(samples), rate, None)  # type: ignore[arg-type]
            (_, features), *_ = encode_windows(encoder, [cut])
            rows.append(features.window.ravel() / np.linalg.norm(features.window))
        return np.stack(rows).astype(np.float64)

    def score(train: Sequence[Sound], test: Sequence[Sound]) -> Float64:
        return np.asarray(1 - (flat(test) @ flat(train).T).max(axis=1))

    return score


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--window-s", type=float, default=2.0)
    parser.add_argument("--hop-s", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    kind = "echo" if asked.weights else "spectral"
    encoder = make_encoder(kind, window_s=asked.window_s, weights=asked.weights, size=asked.size)
    ours = evaluate(asked.folder, encoder, window_s=asked.window_s, hop_s=asked.hop_s)
    ways = {
        "level only": level_only,
        "log-band": log_band,
        "log-band, level-free": log_band_level_free,
        f"SIREN's recipe, {kind}": siren(encoder),
        "autoencoder": autoencoder,
    }
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for machine in ours["machines"]:
        rows = found[machine["machine"]] = {}
        train, test, faulty = _clips(asked.folder / machine["machine"], machine["files"])
        for name, way in ways.items():
            scores = way(train, test)
            rows[name] = auc(scores[~faulty], scores[faulty]), partial_auc(scores[~faulty], scores[faulty])
        rows["echo-stream"] = machine["auc"], machine["pauc"]
    if asked.json:
        print(json.dumps(found))
    else:
        _print(found)


def _clips(
    machine: Path, files: Sequence[dict[str, Any]]
) -> tuple[list[Sound], list[Sound], NDArray[np.bool_]]:
    train = [
        _read(path) for path in sorted((machine / "train").iterdir()) if path.suffix in (".wav", ".flac")
    ]
    faulty = np.array([file["label"] == "anomaly" for file in files])
    return train, [_read(Path(file["path"])) for file in files], faulty


def _read(path: Path) -> Sound:
    samples, rate = soundfile.read(path, dtype="float64", always_2d=True)
    return samples[:, 0] - samples[:, 0].mean(), rate


def _print(found: dict[str, dict[str, tuple[float, float]]]) -> None:
    names = list(next(iter(found.values())))
    for n, title in enumerate(("AUC", "pAUC up to a false positive rate of 0.1")):
        print(f"\n{title}\n{'':28}" + "".join(f"{name:>24}" for name in names))
        for machine, rows in found.items():
            print(f"{machine:28}" + "".join(f"{rows[name][n]:24.3f}" for name in names))
        means = [np.mean([rows[name][n] for rows in found.values()]) for name in names]
        print(f"{'mean':28}" + "".join(f"{mean:24.3f}" for mean in means))


if __name__ == "__main__":
    main()
