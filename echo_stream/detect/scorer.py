"""How far a window is from normal, and why. Runs on the pipeline thread; pure but for the bank it reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from echo_stream.detect.bank import NormalBank
from echo_stream.detect.reference import Reference
from echo_stream.errors import BankMismatch, EncoderError
from echo_stream.types import BandScore, Features, Float32, Neighbour, Score

NEAREST = 3
"""How many normal windows a score names."""


class Scorer:
    """Scores windows against one bank."""

    def __init__(self, bank: NormalBank) -> None:
        self._bank = bank
        self._held_out = np.sort(np.concatenate(bank.held_out))
        self._levels_dbfs = {r.condition: float(np.median(r.level_dbfs)) for r in bank.references}

    def score_one(self, features: Features) -> Score:
        """Score of one window; see `score`."""
        return self.score([features])[0]

    def score(self, features: Sequence[Features]) -> list[Score]:
        """Scores of windows, in the order given; each against the operating state that is nearest.

        Raises:
            BankMismatch: features of another shape than the bank's.
            EncoderError: features that are not finite. NaN compares false with every threshold, which would
                read as normal.
        """
        if not features:
            return []
        for item in features:
            self._check(item)
        window = np.stack([item.window for item in features])
        distances = [own.distances(window) for own in self._bank.references]
        contributions = [
            own.contributions(d) for own, d in zip(self._bank.references, distances, strict=True)
        ]
        best = np.argmin([c.sum(axis=1) for c in contributions], axis=0)
        return [
            self._explain(item, self._bank.references[k], contributions[k][i], distances[k][i])
            for i, (item, k) in enumerate(zip(features, best.tolist(), strict=True))
        ]

    def _check(self, features: Features) -> None:
        expected = self._bank.references[0].centre.shape
        if features.window.shape != expected:
            raise BankMismatch(
                f"features are {features.window.shape} (bands, dim), bank {self._bank.id} has {expected}",
                "Score with the encoder, sample rate and window that the bank was fitted with.",
            )
        if not (np.isfinite(features.window).all() and np.isfinite(features.level_dbfs)):
            raise EncoderError("features are not finite: no score", "Check the source and the encoder.")

    def _explain(
        self, features: Features, own: Reference, contributions: NDArray[np.float64], distances: Float32
    ) -> Score:
        """One window's score; contributions (bands,), squared distances (n, bands)."""
        value = float(sum(contributions.tolist()))
        at_least = len(self._held_out) - int(np.searchsorted(self._held_out, value, side="left"))
        overall = np.sqrt(distances.mean(axis=1))
        return Score(
            value=value,
            p_value=(1 + at_least) / (1 + len(self._held_out)),
            bands=tuple(
                BandScore(float(low), float(high), float(part))
                for (low, high), part in zip(self._bank.bands_hz, contributions, strict=True)
            ),
            nearest=tuple(
                Neighbour(own.recordings[i], float(own.start_s[i]), float(overall[i]))
                for i in np.argsort(overall, kind="stable")[:NEAREST].tolist()
            ),
            level_dbfs=features.level_dbfs,
            level_delta_db=features.level_dbfs - self._levels_dbfs[own.condition],
            condition=own.condition,
        )
