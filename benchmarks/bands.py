"""What leaving bands of ECHO out would cost: AUC with fewer bands, chosen by normal sound, and by the faults.

    python -m benchmarks.bands DIR... [--weights FILE --size tiny] [--seed 1]

DIR is a machine in the layout of DCASE task 2. It is encoded once; a bank is then fitted on some of the bands
and scores the test clips by them. Bands are chosen, from what a fit knows:

- quiet: the quietest go first,
- redundant: the one goes first without which held-out scores of normal sound change their order least,

and, as the most that any choice could save, from what a fit does not know:

- faults: the one goes first without which the AUC is highest.

Without --weights they are random, drawn from the seed. It is no timing: it can run beside other work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from echo_stream.cli.evaluate import auc
from echo_stream.core.types import Enrolled, Features, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode import spectrogram as front
from echo_stream.encode.echo import SIZES, EchoWeights
from echo_stream.encode.echo_encoder import EchoEncoder
from echo_stream.pipeline.loop import encode_windows

Float64 = NDArray[np.float64]
Bands = tuple[int, ...]
WINDOW_S, HOP_S = 2.0, 1.0
LOST = 0.002
"""Of AUC at most."""


@dataclass
class Machine:
    """Features of its clips."""

    encoder: EchoEncoder
    rate_hz: int
    train: list[list[Features]]
    test: list[list[Features]]
    faulty: NDArray[np.bool_]
    levels: Float64
    """Mean of each band's log spectrogram over the training clips."""

    @classmethod
    def read(cls, folder: Path, encoder: EchoEncoder) -> Machine:
        """All clips of a machine."""
        paths = [sorted((folder / part).iterdir()) for part in ("train", "test")]
        sounds = [[soundfile.read(path, dtype="float32", always_2d=True) for path in of] for of in paths]
        rate_hz = sounds[0][0][1]
        train, test = (
            [[f for _, f in encode_windows(encoder, _windows(x[:, 0], rate_hz))] for x, _ in of]
            for of in sounds
        )
        log = [front.log_spectrogram(x[None, :, 0], rate_hz).mean(axis=(0, 2)) for x, _ in sounds[0]]
        mean = np.mean(log, axis=0)
        levels = np.array([mean[a:b].mean() for a, b in front.band_bins(rate_hz)])
        faulty = np.array(["anomaly" in path.name for path in paths[1]])
        return cls(encoder, rate_hz, train, test, faulty, levels)

    def auc(self, bands: Bands) -> float:
        """With these bands alone."""
        scorer = Scorer(self._bank(self.train, bands))
        clips = [np.mean([s.value for s in scorer.score(_only(clip, bands))]) for clip in self.test]
        scores = np.array(clips)
        return auc(scores[~self.faulty], scores[self.faulty])

    def held_out(self) -> Float64:
        """(windows, bands): what each band adds to the score of normal windows that a bank did not see."""
        rows = []
        every = tuple(range(len(self.levels)))
        for part in (0, 1):
            scorer = Scorer(self._bank(self.train[part::2], every))
            for score in scorer.score([f for clip in self.train[1 - part :: 2] for f in clip]):
                added = {each.low_hz: each.contribution for each in score.bands}
                rows.append([added[float(low)] for low in self.train[0][0].bands_hz[:, 0]])
        return np.array(rows)

    def _bank(self, clips: Sequence[Sequence[Features]], bands: Bands) -> NormalBank:
        enrolled = [
            Enrolled(features, f"clip{n}", i * HOP_S)
            for n, clip in enumerate(clips)
            for i, features in enumerate(_only(clip, bands))
        ]
        return NormalBank.fit(
            enrolled,
            encoder=self.encoder.identity,
            sample_rate_hz=self.rate_hz,
            window_s=WINDOW_S,
            hop_s=HOP_S,
        )


def _windows(samples: NDArray[np.float32], rate_hz: int) -> list[Window]:
    n, hop, now = round(WINDOW_S * rate_hz), round(HOP_S * rate_hz), datetime(2026, 1, 1, tzinfo=UTC)
    starts = range(0, max(1, len(samples) - n + 1), hop)
    return [Window("m", samples[a : a + n], a, a + n, rate_hz, now) for a in starts]


def _only(clip: Sequence[Features], bands: Bands) -> list[Features]:
    own = list(bands)
    return [
        replace(f, window=f.window[own], segments=f.segments[:, own], bands_hz=f.bands_hz[own]) for f in clip
    ]


def dropped_one_by_one(bands: int, worth: Callable[[Bands], float]) -> list[Bands]:
    """What remains after each step, if the band without which it is worth most goes first."""
    remain = tuple(range(bands))
    steps = [remain]
    while len(remain) > 1:
        fewer = [tuple(b for b in remain if b != gone) for gone in remain]
        remain = max(fewer, key=worth)
        steps.append(remain)
    return steps


def main() -> None:
    """Print a line a machine and choice: AUC by how many bands remain, and how many may go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="of one machine each")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--seed", type=int, default=1, help="of the random weights")
    given = parser.parse_args()
    model = (
        EchoWeights.from_checkpoint(given.weights, given.size)
        if given.weights
        else EchoWeights.random(given.size, given.seed)
    )
    encoder = EchoEncoder(model, precision="float32")
    for folder in given.folders:
        machine = Machine.read(folder, encoder)
        count = len(machine.levels)
        added = machine.held_out()
        total = np.argsort(np.argsort(added.sum(axis=1))).astype(np.float64)

        def order(bands: Bands, added: Float64 = added, total: Float64 = total) -> float:
            own = np.argsort(np.argsort(added[:, list(bands)].sum(axis=1)))
            return float(np.corrcoef(own, total)[0, 1])

        quiet = np.argsort(-machine.levels, kind="stable")
        choices = {
            "quiet": [tuple(sorted(quiet[:n].tolist())) for n in range(count, 0, -1)],
            "redundant": dropped_one_by_one(count, order),
            "faults": dropped_one_by_one(count, machine.auc),
        }
        for name, steps in choices.items():
            aucs = [machine.auc(bands) for bands in steps]
            may_go = 0
            while may_go + 1 < count and aucs[may_go + 1] >= aucs[0] - LOST:
                may_go += 1
            shown = " ".join(f"{len(bands)}:{value:.3f}" for bands, value in zip(steps, aucs, strict=True))
            print(f"{folder.name} {name}: {may_go} of {count} may go; {shown}", flush=True)


if __name__ == "__main__":
    main()
