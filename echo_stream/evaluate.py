"""evaluate: how well normal and faulty clips of machines are told apart, in the layout of DCASE task 2."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.capture.recordings import Recording, find_recordings
from echo_stream.capture.shared import Shared
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.errors import SourceError
from echo_stream.pipeline import features_of, windows_of
from echo_stream.types import Enrolled, Features

MAX_FPR = 0.1
_NAME = re.compile(r"(?:normal|anomaly_(?P<kind>[^_]+))(?:_.*)?", re.IGNORECASE)
_CLIP_NUMBER = re.compile(r"_\d{1,3}$")

Float64 = NDArray[np.float64]
Say = Callable[[float, float, str], None]
"""How far it is: files done, files in all, and the machine at hand."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled file."""

    path: Path
    kind: str
    """Of the fault; empty for normal sound."""
    recording: str
    """What it was cut from: clips of one recording resemble each other, and are left out together."""

    @property
    def label(self) -> str:
        """`normal` or `anomaly`."""
        return "anomaly" if self.kind else "normal"


def evaluate(
    folder: Path, encoder: Encoder, *, window_s: float, hop_s: float, say: Say = lambda *_: None
) -> dict[str, Any]:
    """Fits and scores every machine below a folder: `train/normal_*`, `test/normal_*`, `test/anomaly_KIND_*`.

    A clip's score is the mean over its windows. Where all clips of a machine are shorter than a window, the
    shortest is the window.

    Args:
        folder: holds machines at any depth, or is one.
        encoder: for all of them.
        window_s: length of a window.
        hop_s: between the starts of two.
        say: told how far it is.

    Returns:
        `machines` (each with `machine`, `auc`, `pauc`, `kinds`, `files` and counts of clips and recordings),
        `mean_auc`, `mean_pauc` and `harmonic_mean` of all AUC and pAUC. pAUC goes up to a false positive rate
        of 0.1, standardised after McClish (1989; 0.5 is chance), as DCASE reports it.

    Raises:
        SourceError: no machine there, a clip that cannot be read or whose name says nothing.
        BankError: too few normal clips to fit on.
    """
    parents = {path.parent for path in find_recordings([folder])}
    folders = sorted(p.parent for p in parents if p.name == "train" and p.with_name("test") in parents)
    machines = {path: (_clips(path / "train"), _clips(path / "test")) for path in folders}
    if not machines:
        raise SourceError(f"{folder}: no machine in it", "expected MACHINE/train/normal_* and MACHINE/test/*")
    total, done, found = sum(len(a) + len(b) for a, b in machines.values()), 0, []
    for path, (train, test) in machines.items():
        name = path.name if path == folder else str(path.relative_to(folder))
        window, hop = _fitting_window([*train, *test], window_s, hop_s)

        def features(
            clips: Sequence[Clip], name: str = name, window: float = window, hop: float = hop
        ) -> _Heard:
            nonlocal done
            for clip in clips:
                say(done, total, name)
                done += 1
                yield clip, _features(clip.path, encoder, window, hop)

        scores = _score(encoder, list(features(train)), features(test), window_s=window, hop_s=hop)
        found.append(_machine(name, train, test, scores))
    return {"machines": found, **_overall(found)}


_Heard = Iterator[tuple[Clip, list[tuple[float, Features]]]]


def _clips(folder: Path) -> list[Clip]:
    manifest = _recordings(folder.parent.parent / "manifest.csv")
    clips = []
    for path in find_recordings([folder]):
        name = _NAME.fullmatch(path.stem)
        if name is None:
            raise SourceError(
                f"{path}: the name does not say what it is", "expected normal_* or anomaly_KIND_*"
            )
        listed = manifest.get(f"{folder.parent.name}/{folder.name}/{path.name}")
        clips.append(Clip(path, name["kind"] or "", listed or _CLIP_NUMBER.sub("", path.stem)))
    return clips


def _recordings(manifest: Path) -> dict[str, str]:
    """Recording of each clip, where a manifest beside the machines says so."""
    if not manifest.is_file():
        return {}
    with manifest.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        return {
            row["path"]: row["recording_id"] for row in rows if row.get("path") and row.get("recording_id")
        }


def _fitting_window(clips: Sequence[Clip], window_s: float, hop_s: float) -> tuple[float, float]:
    """Window and hop that all clips have room for."""
    lengths_s = []
    for clip in clips:
        with closing(Recording(clip.path, pace="fast")) as recording:
            lengths_s.append(recording.duration_s)
    longest = max(lengths_s)
    window = window_s if longest >= window_s else min(lengths_s)
    if min(lengths_s) < window:
        short = clips[lengths_s.index(min(lengths_s))].path
        raise SourceError(
            f"{short}: shorter than a window of {window:g} s, though others are not",
            "set a shorter encoder.window_s, or take the short clips out",
        )
    return window, min(hop_s, window)


def _features(path: Path, encoder: Encoder, window_s: float, hop_s: float) -> list[tuple[float, Features]]:
    """Start in seconds and features of each window of a file's first channel."""
    with closing(Shared(Recording(path, pace="fast")).view(0)) as recording:
        rate = recording.sample_rate_hz
        windows = windows_of(recording, machine=path.name, window_s=window_s, hop_s=hop_s)
        return [(window.start / rate, features) for window, features in features_of(encoder, windows)]


def _score(
    encoder: Encoder,
    train: Iterable[tuple[Clip, list[tuple[float, Features]]]],
    test: Iterable[tuple[Clip, list[tuple[float, Features]]]],
    *,
    window_s: float,
    hop_s: float,
) -> list[float]:
    """Score of each test clip against a bank of the training clips."""
    enrolled, offsets_s = [], dict[str, float]()
    for clip, heard in train:
        offset_s = offsets_s.get(clip.recording, 0.0)
        enrolled += [Enrolled(features, clip.recording, offset_s + start_s) for start_s, features in heard]
        offsets_s[clip.recording] = offset_s + heard[-1][0] + 10 * window_s  # clips of one never touch
    with_rate = next(iter(train))[0].path
    with closing(Recording(with_rate, pace="fast")) as recording:
        rate = recording.sample_rate_hz
    bank = NormalBank.fit(
        enrolled, encoder=encoder.identity, sample_rate_hz=rate, window_s=window_s, hop_s=hop_s
    )
    scorer = Scorer(bank)
    return [
        float(np.mean([s.value for s in scorer.score([features for _, features in heard])]))
        for _, heard in test
    ]


def _machine(
    name: str, train: Sequence[Clip], test: Sequence[Clip], scores: Sequence[float]
) -> dict[str, Any]:
    values = np.array(scores)
    kinds = np.array([clip.kind for clip in test])
    normal = values[kinds == ""]
    return {
        "machine": name,
        **_rates(normal, values[kinds != ""]),
        "train": _counts(train),
        "test_normal": _counts([clip for clip in test if not clip.kind]),
        "test_anomaly": _counts([clip for clip in test if clip.kind]),
        "kinds": {
            kind: {
                **_rates(normal, values[kinds == kind]),
                **_counts([clip for clip in test if clip.kind == kind]),
            }
            for kind in sorted(set(kinds.tolist()) - {""})
        },
        "files": [
            {"path": str(clip.path), "label": clip.label, "kind": clip.kind or None, "score": score}
            for clip, score in zip(test, scores, strict=True)
        ],
    }


def _counts(clips: Sequence[Clip]) -> dict[str, int]:
    return {"clips": len(clips), "recordings": len({clip.recording for clip in clips})}


def _rates(normal: Float64, anomalous: Float64) -> dict[str, float | None]:
    """AUC and pAUC; None where one side has no clip."""
    if not (len(normal) and len(anomalous)):
        return {"auc": None, "pauc": None}
    return {"auc": auc(normal, anomalous), "pauc": partial_auc(normal, anomalous)}


def _overall(machines: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    aucs = [machine["auc"] for machine in machines if machine["auc"] is not None]
    paucs = [machine["pauc"] for machine in machines if machine["pauc"] is not None]
    if not aucs:
        return {"mean_auc": None, "mean_pauc": None, "harmonic_mean": None}
    together = [max(value, 1e-12) for value in (*aucs, *paucs)]
    return {
        "mean_auc": float(np.mean(aucs)),
        "mean_pauc": float(np.mean(paucs)),
        "harmonic_mean": harmonic_mean(together),
    }


def auc(normal: Float64, anomalous: Float64) -> float:
    """Probability that an anomalous clip scores higher than a normal one; equal scores count half."""
    higher = (anomalous[:, None] > normal).mean()
    return float(higher + 0.5 * (anomalous[:, None] == normal).mean())


def partial_auc(normal: Float64, anomalous: Float64, max_fpr: float = MAX_FPR) -> float:
    """Area under the curve up to a false positive rate, standardised after McClish (1989): 0.5 is chance."""
    levels = np.unique(np.concatenate([normal, anomalous]))[::-1]
    fpr = np.concatenate([[0.0], [(normal >= level).mean() for level in levels]])
    tpr = np.concatenate([[0.0], [(anomalous >= level).mean() for level in levels]])
    stop = int(np.searchsorted(fpr, max_fpr, side="right"))  # fpr ends at 1, so one point lies beyond
    at = np.interp(max_fpr, fpr[stop - 1 : stop + 1], tpr[stop - 1 : stop + 1])
    area = float(np.trapezoid([*tpr[:stop], at], [*fpr[:stop], max_fpr]))
    chance = 0.5 * max_fpr**2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))
