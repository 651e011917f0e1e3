"""evaluate measures how well normal and faulty clips are told apart, in the layout of DCASE task 2."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import numpy as np
from rich.table import Table

from echo_stream.alarm.calibration import Calibration
from echo_stream.capture.recording import Recording, find_recordings
from echo_stream.capture.stored import objects_in, open_stored, reading
from echo_stream.capture.table import Columns
from echo_stream.cli.common import (
    engine_of,
    print_json,
    print_table,
    progress,
    quiet,
    read_config_or_defaults,
    shard_of,
)
from echo_stream.config.schema import Machine
from echo_stream.config.sources import StdinSource
from echo_stream.core.calibration import BankCalibration
from echo_stream.core.errors import BankError, Failures, SourceError
from echo_stream.core.text import Progress, is_object, path_text
from echo_stream.core.types import AlarmPath, Enrolled, Float64
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.fit.announced import Announced, announced
from echo_stream.fit.archive import Part, most_windows, parts_of, spread
from echo_stream.fit.archive_jobs import Encoded, Engine, encode_parts
from echo_stream.fit.shard import Shard
from echo_stream.pipeline.factory import build_alarms, build_encoder

MAX_FPR = 0.1


def rates(normal: Float64, anomalous: Float64) -> dict[str, float | None]:
    """AUC and pAUC; None where one side has no clip."""
    if not (len(normal) and len(anomalous)):
        return {"auc": None, "pauc": None}
    return {"auc": auc(normal, anomalous), "pauc": partial_auc(normal, anomalous)}


def overall(machines: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means over machines, each with `auc` and `pauc`, and the harmonic mean of all; None where none is."""
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


_NAME = re.compile(r"(?:normal|anomaly_(?P<kind>[^_]+))(?:_.*)?", re.IGNORECASE)
_CLIP_NUMBER = re.compile(r"_\d{1,3}$")


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


@dataclass(frozen=True, slots=True)
class _Machine:
    """What is to be done for one machine."""

    name: str
    train: Sequence[Clip]
    test: Sequence[Clip]
    window_s: float
    hop_s: float
    learnt: Sequence[tuple[Clip, Part]]
    """Of the training clips, those parts that are learnt."""
    windows: int
    """Of the training clips, all."""
    offsets_s: Mapping[Path, float]
    """Where each training clip begins in its recording."""
    asked: Sequence[tuple[Clip, Part]]
    """All parts of the test clips."""


def evaluate(
    folder: Path,
    encoder: Encoder,
    *,
    window_s: float,
    hop_s: float,
    progress: Progress = lambda *_: None,
    resume: Path | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    shard: Shard | None = None,
    failures: Failures | None = None,
    columns: Columns | None = None,
) -> dict[str, Any]:
    """Fits and scores every machine below a folder: `train/normal_*`, `test/normal_*`, `test/anomaly_KIND_*`.

    A clip's score is the mean over its windows. Where all clips of a machine are shorter than a window, the
    shortest is the window. Of more than `archive.MOST_WINDOWS` training windows, pieces are learnt.

    Args:
        folder: holds machines at any depth, or is one.
        encoder: for all of them.
        window_s: length of a window.
        hop_s: between the starts of two.
        progress: called with seconds done, seconds in all, and a text.
        resume: folder that keeps what is finished, to go on after an interruption.
        workers: processes that encode; None: one a core, where that is worth it.
        engine: encodes in place of processes here.
        shard: computed first: this PC's share, into the same folder.
        failures: takes the errors of clips that are left out; None: the first one ends the work.
        columns: of tables among them.

    Returns:
        `machines` (each with `machine`, `auc`, `pauc`, `announced`, `kinds`, `files` and counts of clips,
        recordings and training windows), `mean_auc`, `mean_pauc` and `harmonic_mean` of all AUC and pAUC.
        pAUC goes up to a false positive rate of 0.1, standardised after McClish (1989; 0.5 is chance), as
        DCASE reports it.
        `announced` counts the faulty clips by the fastest way to an alarm that their sound would take if it
        went on, with default alarm settings; None where there is too little normal sound for levels.

    Raises:
        ShardDone: parts of other shards are missing.
        SourceError: no machine there, a clip that cannot be read or whose name says nothing.
        BankError: too few normal clips to fit on.
        EncoderError: a window cannot be encoded.
    """
    failures = Failures(strict=True) if failures is None else failures
    machines = _machines(folder, encoder, window_s, hop_s, failures, columns)
    parts = [part for machine in machines for _, part in (*machine.learnt, *machine.asked)]
    if shard is not None:
        shard.compute(parts, encoder, progress)
    encoded = encode_parts(
        parts, encoder, progress=progress, resume=resume, workers=workers, engine=engine, failures=failures
    )
    with closing(encoded):
        found = [_judged(machine, encoder, encoded) for machine in machines]
    return {"machines": found, **overall(found)}


def _machines(
    folder: Path, encoder: Encoder, window_s: float, hop_s: float, failures: Failures, columns: Columns | None
) -> list[_Machine]:
    parents = {path.parent for path in find_recordings([folder], columns)}
    folders = sorted(p.parent for p in parents if p.name == "train" and p.with_name("test") in parents)
    if not folders:
        raise SourceError(
            f"{path_text(folder)}: no machine in it", "expected MACHINE/train/normal_* and MACHINE/test/*"
        )
    found = []
    for path in folders:
        train, test = (_clips(path / name, failures, columns) for name in ("train", "test"))
        window, hop, fitting = _fitting_window([*train, *test], window_s, hop_s, failures, columns)
        train, test = ([clip for clip in clips if clip in fitting] for clips in (train, test))
        if not train:
            failures.raise_any()
        learnt, asked = (
            {
                part: clip
                for clip in clips
                for part in parts_of(clip.path, window_s=window, hop_s=hop, columns=columns)
            }
            for clips in (train, test)
        )
        taken = spread(list(learnt), most_windows(encoder, list(learnt)))
        found.append(
            _Machine(
                name=path.name if path == folder else str(path.relative_to(folder)),
                train=train,
                test=test,
                window_s=window,
                hop_s=hop,
                learnt=[(learnt[part], part) for part in taken],
                windows=sum(part.windows for part in learnt),
                offsets_s=_offsets_s(learnt),
                asked=[(clip, part) for part, clip in asked.items()],
            )
        )
    return found


def _clips(folder: Path, failures: Failures, columns: Columns | None) -> list[Clip]:
    manifest = _recordings(folder.parent.parent / "manifest.csv")
    clips = []
    for path in find_recordings([folder], columns):
        name = _NAME.fullmatch(path.stem)
        if name is None:
            failures.add(
                SourceError(
                    f"{path_text(path)}: the name does not say what it is",
                    "expected normal_* or anomaly_KIND_*",
                )
            )
            continue
        listed = manifest.get(f"{folder.parent.name}/{folder.name}/{path.name}")
        clips.append(Clip(path, name["kind"] or "", listed or _CLIP_NUMBER.sub("", path.stem)))
    return clips


def _recordings(manifest: Path) -> dict[str, str]:
    """Recording of each clip, where a manifest beside the machines says so."""
    if not (objects_in(manifest) == [manifest] if is_object(manifest) else manifest.is_file()):
        return {}
    with reading(manifest), open_stored(manifest) as file:
        rows = csv.DictReader(io.StringIO(file.read().decode("utf-8"), newline=""))
    return {row["path"]: row["recording_id"] for row in rows if row.get("path") and row.get("recording_id")}


def _fitting_window(
    clips: Sequence[Clip], window_s: float, hop_s: float, failures: Failures, columns: Columns | None
) -> tuple[float, float, set[Clip]]:
    """Window and hop, and the clips that can be read and are long enough for them."""
    lengths_s: dict[Clip, float] = {}
    for clip in clips:
        try:
            with closing(Recording(clip.path, pace="fast", columns=columns)) as recording:
                lengths_s[clip] = recording.duration_s
        except SourceError as error:
            failures.add(error)
    if not lengths_s:
        failures.raise_any()
    longest, shortest = max(lengths_s.values()), min(lengths_s.values())
    window = window_s if longest >= window_s else shortest
    for clip, length_s in list(lengths_s.items()):
        if length_s < window:
            failures.add(
                SourceError(
                    f"{path_text(clip.path)}: shorter than a window of {window:g} s, though others are not",
                    "set a shorter encoder.window_s, or take the short clips out",
                )
            )
            del lengths_s[clip]
    return window, min(hop_s, window), set(lengths_s)


def _judged(machine: _Machine, encoder: Encoder, encoded: Iterator[Encoded]) -> dict[str, Any]:
    """Fit one machine and score its test clips."""
    enrolled: list[Enrolled] = []
    for (clip, _), found in zip(machine.learnt, encoded, strict=False):  # the test clips come after them
        offset_s = machine.offsets_s[clip.path]
        enrolled += [Enrolled(f, clip.recording, offset_s + start_s) for start_s, f in found.windows]
    bank = NormalBank.fit(
        enrolled,
        encoder=encoder.identity,
        sample_rate_hz=machine.learnt[0][1].sample_rate_hz,
        window_s=machine.window_s,
        hop_s=machine.hop_s,
    )
    scorer, values = Scorer(bank), dict[Path, list[float]]()
    damaged: set[Path] = set()
    for (clip, _), found in zip(machine.asked, encoded, strict=False):
        scores = scorer.score([features for _, features in found.windows])
        values.setdefault(clip.path, []).extend(score.value for score in scores)
        damaged |= {clip.path} if found.failed else set()
    machine = replace(machine, test=[clip for clip in machine.test if clip.path not in damaged])
    of_clips = [values[clip.path] for clip in machine.test]
    levels = _levels(machine.name, bank)
    paths = None if levels is None else [levels.path(each) for each in of_clips]
    return _rated(machine, [float(np.mean(each)) for each in of_clips], paths)


def _levels(machine: str, bank: NormalBank) -> Announced | None:
    """Of an alarm with default settings; None where there is too little normal sound for one."""
    try:
        calibration = Calibration.fit([run.round(4) for run in bank.held_out], bank.hop_s)
    except BankError:
        return None
    bank = replace(bank, calibration=BankCalibration(bank.hop_s, calibration.runs))
    source = StdinSource(kind="stdin", sample_rate_hz=bank.sample_rate_hz)  # of an alarm's levels no part
    _, ways = build_alarms(Machine.model_construct(id=machine, source=source, bank=Path()), bank)
    return announced(ways.levels, ways.timing, calibration.runs)


def _offsets_s(parts: Mapping[Part, Clip]) -> dict[Path, float]:
    """Where each clip begins in its recording: one after the other, so that no two of them touch."""
    offsets_s, ends_s = dict[Path, float](), dict[str, float]()
    for part, clip in parts.items():
        offset_s = offsets_s.setdefault(clip.path, ends_s.get(clip.recording, 0.0))
        ends_s[clip.recording] = offset_s + part.last_start_s + 10 * part.window_s
    return offsets_s


def _rated(
    machine: _Machine, scores: Sequence[float], paths: Sequence[AlarmPath | None] | None
) -> dict[str, Any]:
    values, test = np.array(scores), machine.test

    def by_way(kinds_of: Callable[[str], bool]) -> dict[str, int] | None:
        if paths is None:
            return None
        mine = [path for clip, path in zip(test, paths, strict=True) if kinds_of(clip.kind)]
        return {"of": len(mine), **{path.value: mine.count(path) for path in AlarmPath}}

    kinds = np.array([clip.kind for clip in test])
    normal = values[kinds == ""]
    return {
        "machine": machine.name,
        **rates(normal, values[kinds != ""]),
        "announced": by_way(bool),
        "announced_normal": by_way(lambda kind: not kind),
        "train": _counts(machine.train),
        "train_windows": {"learnt": sum(part.windows for _, part in machine.learnt), "of": machine.windows},
        "test_normal": _counts([clip for clip in test if not clip.kind]),
        "test_anomaly": _counts([clip for clip in test if clip.kind]),
        "kinds": {
            kind: {
                **rates(normal, values[kinds == kind]),
                "announced": by_way(lambda each, kind=kind: each == kind),  # type: ignore[misc]
                **_counts([clip for clip in test if clip.kind == kind]),
            }
            for kind in sorted(set(kinds.tolist()) - {""})
        },
        "files": [
            {"path": path_text(clip.path), "label": clip.label, "kind": clip.kind or None, "score": score}
            for clip, score in zip(test, scores, strict=True)
        ],
    }


def _counts(clips: Sequence[Clip]) -> dict[str, int]:
    return {"clips": len(clips), "recordings": len({clip.recording for clip in clips})}


def run_evaluate(
    folder: Path,
    config: Path | None,
    as_json: bool,
    resume: Path | None,
    cluster: str | None,
    shard: str | None,
    strict: bool,
    columns: Columns | None = None,
) -> None:
    """Evaluate the machines of a folder with the configured encoder, and print what was found."""
    quiet()
    settings = read_config_or_defaults(config)
    failures = Failures(strict)
    cut, share = settings.encoder, shard_of(shard, resume, cluster)
    with progress("evaluating") as report, engine_of(cluster) as engine:
        found = evaluate(
            folder,
            build_encoder(settings),
            window_s=cut.window_s,
            hop_s=cut.hop_s,
            progress=report,
            resume=resume,
            engine=engine,
            shard=share,
            failures=failures,
            columns=columns,
        )
    if as_json:
        print_json(found)
    else:
        _print(found)
    failures.raise_any("clips")


def _print(found: dict[str, Any]) -> None:
    columns = (
        "machine",
        "kind",
        "AUC",
        "pAUC 0.1",
        "normal clips",
        "recordings",
        "faulty clips",
        "recordings",
        "announced",
    )
    table = Table(*columns)
    for machine in found["machines"]:
        normal = machine["test_normal"]
        rows = [("all", machine, machine["test_anomaly"])]
        rows += [(kind, it, it) for kind, it in machine["kinds"].items()]
        for n, (kind, rates, faulty) in enumerate(rows):
            counts = [normal["clips"], normal["recordings"], faulty["clips"], faulty["recordings"]]
            name = machine["machine"] if n == 0 else ""
            said = _announced(rates["announced"])
            table.add_row(name, kind, _shown(rates["auc"]), _shown(rates["pauc"]), *map(str, counts), said)
    print_table(table, 120)
    means = [_shown(found[key]) for key in ("mean_auc", "mean_pauc", "harmonic_mean")]
    print(f"mean AUC {means[0]}, mean pAUC {means[1]}, harmonic mean of both {means[2]}")
    known = [machine for machine in found["machines"] if machine["announced"]]
    faults, normal = (_sum(machine[key] for machine in known) for key in ("announced", "announced_normal"))
    if known:
        print(
            f"if they went on, {_announced(faults)} faulty clips would be announced, and "
            f"{_announced(normal)} normal ones"
        )


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return dict(found)


def _announced(counts: Mapping[str, int] | None) -> str:
    """2 of 5: 1 strong, 1 slow."""
    if counts is None:
        return "-"
    by_way = {path.value: counts[path.value] for path in AlarmPath if counts[path.value]}
    ways = ", ".join(f"{count} {path}" for path, count in by_way.items())
    return f"{sum(by_way.values())} of {counts['of']}" + (f" ({ways})" if ways else "")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
