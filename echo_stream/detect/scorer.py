"""How far a window is from normal, and why. Runs on the pipeline thread; pure but for the bank it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.errors import BankMismatch, EncoderError
from echo_stream.core.types import BandScore, Features, Float32, Neighbour, Score
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.known_sounds import KnownSound, KnownSounds
from echo_stream.detect.nuisance import gain_db
from echo_stream.detect.reference import Sound

GAIN_FROM = 2.0
"""Of a smaller score nobody asks for reasons."""
NEAREST = 3
"""How many normal windows a score names."""


class Scorer:
    """Scores windows against one bank.

    Args:
        bank: what is normal.
        known: sounds that a person taught as no fault, in features of the bank's encoder.
    """

    def __init__(self, bank: NormalBank, known: Sequence[KnownSound] = ()) -> None:
        self._bank = bank
        self._known = KnownSounds(bank.references, known)
        self._held_out = np.sort(np.concatenate(bank.held_out))
        self._bands_hz: list[list[float]] = bank.bands_hz.tolist()
        own = bank.references[0]
        self._shapes = own.window.normals.shape[1:], own.segments.normals.shape[1:]

    @property
    def known_sounds(self) -> Mapping[str, KnownSound]:
        """By name."""
        return self._known.sounds

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
        sound = Sound.of(features)
        compared = [own.compare(sound) for own in self._bank.references]
        best = np.argmin([parts.sum(axis=1) for parts, _ in compared], axis=0)
        return [
            self._explain(item, k, compared[k][0][i], compared[k][1][i])
            for i, (item, k) in enumerate(zip(features, best.tolist(), strict=True))
        ]

    def _check(self, features: Features) -> None:
        shapes = features.window.shape, features.segments.shape[1:]
        for name, found, expected in zip(("window", "segment"), shapes, self._shapes, strict=True):
            if found != expected or 0 in features.segments.shape:
                raise BankMismatch(
                    f"{name} features are {found} (bands, dim), bank {self._bank.id} has {expected}",
                    "Score with the encoder, sample rate and window that the bank was fitted with.",
                )
        numbers = features.window, features.segments
        if not (math.isfinite(features.level_dbfs) and all(np.isfinite(some).all() for some in numbers)):
            raise EncoderError("features are not finite: no score", "Check the source and the encoder.")

    def _explain(
        self, features: Features, state: int, contributions: NDArray[np.float64], distances: Float32
    ) -> Score:
        """One window's score; contributions (bands,), distances to the normal windows (n,) of a state."""
        own = self._bank.references[state]
        parts = contributions.tolist()
        value = float(sum(parts))
        near = np.argpartition(distances, min(NEAREST, len(distances)) - 1)[:NEAREST]
        at_least = len(self._held_out) - int(np.searchsorted(self._held_out, value, side="left"))
        return Score(
            value=value,
            p_value=(1 + at_least) / (1 + len(self._held_out)),
            bands=tuple(
                BandScore(low, high, part) for (low, high), part in zip(self._bands_hz, parts, strict=True)
            ),
            nearest=tuple(
                Neighbour(own.recordings[i], float(own.start_s[i]), float(distances[i]))
                for i in near[np.argsort(distances[near], kind="stable")].tolist()
            ),
            level_dbfs=features.level_dbfs,
            level_delta_db=features.level_dbfs - own.level_dbfs,
            condition=own.condition,
            known_sound=self._known.name_of(features, state, value),
            gain_db=gain_db(self._bank.encoder.kind, own.window.metric.centre, features.window)
            if value > GAIN_FROM
            else None,
        )
