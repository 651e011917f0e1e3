"""How often normal sound exceeds a level that it hardly ever reached, and how unsure that is.

Peaks over threshold (Coles 2001, ch. 4 and 5): where the margins exceed a high threshold, each cluster
counts once, by its maximum; clusters come at a rate, and their excesses have a generalised Pareto
distribution. With a few minutes of sound its shape cannot be estimated, so it has a prior, about that of
Martins and Stedinger (2000): mean 0.1, slightly heavier than exponential. The posterior lies on a grid: no
iteration, nothing random, and a bound that is wide where data are few. Pure, fit-time only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

LOWEST_THRESHOLD = 0.75
"""Quantile of the margins below which nothing counts as tail."""
ENOUGH_CLUSTERS = 100
"""The threshold is raised as long as so many clusters are left above it."""
SHAPE_MEAN, SHAPE_SD = 0.1, 0.12
SCALE_SD_LOG = 1.0
"""Prior of the scale: within a factor of e, with 68 %, of what the spread of the margins suggests."""
SCALE_PER_SPREAD = 0.6
"""Mean excess over the upper quartile, in spreads, between a normal (0.5) and an exponential variable
(0.9)."""
MIN_SPREAD = 0.1
"""In spreads of a score: margins that hardly vary (a short enrolment) are not taken to be certain."""

SAFETY = 1.0
"""In spreads of a score: so much of its sensitivity is given for fewer false alarms."""

_SHAPES = np.linspace(-0.3, 0.6, 31)
_LOG_SCALES = np.linspace(-3.0, 3.0, 49)
_RATE_NODES = np.array([NormalDist().inv_cdf((i + 0.5) / 24) for i in range(24)])


@dataclass(frozen=True)
class Tail:
    """Posterior of the rate of clusters above a level."""

    threshold: float
    excesses: Float64
    """(clusters,) of the clusters' maxima over the threshold."""
    hours: float
    """How much sound they come from."""
    spread: float
    """Of all margins; sets the prior of the scale."""

    @cached_property
    def _posterior(self) -> tuple[Float64, Float64, Float64]:
        """Shapes, scales and weights, each (grid,), of what is not negligible."""
        centre = math.log(SCALE_PER_SPREAD * max(self.spread, MIN_SPREAD))
        shape, log_scale = (a.ravel() for a in np.meshgrid(_SHAPES, centre + _LOG_SCALES, indexing="ij"))
        scale = np.exp(log_scale)
        log_density = _log_survival(self.excesses, shape[:, None], scale[:, None])
        with np.errstate(invalid="ignore"):  # -inf, beyond the end of a bounded tail, stays -inf
            log_likelihood = (log_density * (1.0 + shape[:, None])).sum(axis=1)
        log_likelihood -= len(self.excesses) * log_scale
        log_prior = ((shape - SHAPE_MEAN) / SHAPE_SD) ** 2 + ((log_scale - centre) / SCALE_SD_LOG) ** 2
        log_posterior = log_likelihood - 0.5 * log_prior
        weight = np.exp(log_posterior - log_posterior.max())
        kept = weight > 1e-6
        return shape[kept], scale[kept], weight[kept] / weight[kept].sum()

    @cached_property
    def _rates_per_hour(self) -> Float64:
        """(nodes,) equally probable rates of clusters above the threshold (Wilson and Hilferty 1931)."""
        a = len(self.excesses) + 0.5
        cube_root = 1 - 1 / (9 * a) + _RATE_NODES / (3 * math.sqrt(a))
        return np.asarray(a * np.maximum(cube_root, 0.1) ** 3 / self.hours)

    def _survival(self, level: float) -> Float64:
        """(grid, 1) share of the clusters above a level, for each shape and scale."""
        shape, scale, _ = self._posterior
        excess = np.array([level - self.threshold])
        return np.asarray(np.exp(_log_survival(excess, shape[:, None], scale[:, None])))

    def mean_per_hour(self, level: float) -> float:
        """Mean of the posterior of the rate of clusters above a level, at least the threshold."""
        _, _, weight = self._posterior
        return float(weight @ self._survival(level)[:, 0]) * float(self._rates_per_hour.mean())

    def per_hour(self, level: float, quantile: float) -> float:
        """Quantile of the same."""
        _, _, weight = self._posterior
        rates = (self._survival(level) * self._rates_per_hour).ravel()
        order = np.argsort(rates)
        reached = np.cumsum(np.repeat(weight / len(_RATE_NODES), len(_RATE_NODES))[order])
        place = min(int(np.searchsorted(reached, quantile)), len(rates) - 1)
        return float(rates[order[place]])

    def level_for(self, per_hour: float) -> float:
        """Where normal sound raises so many events, or fewer.

        The level at which the posterior's *mean* is so low is safe, but with few data it lies where no fault
        is noticed any more: improbably heavy tails carry the mean. The level of its *median* is as likely too
        low as too high. So: the median's, and from there up to one spread of a score towards the mean's.
        """

        def first(fails: Callable[[float], bool]) -> float:
            return _smallest(lambda excess: fails(self.threshold + excess), MIN_SPREAD)

        central = first(lambda level: self._share_at_most(level, per_hour) < 0.5)
        safe = first(lambda level: self.mean_per_hour(level) > per_hour)
        return self.threshold + max(central, min(safe, central + SAFETY))

    def _share_at_most(self, level: float, per_hour: float) -> float:
        """Share of the posterior with at most such a rate: what `per_hour` inverts, without its sorting."""
        _, _, weight = self._posterior
        with np.errstate(divide="ignore", over="ignore"):  # a survival of nothing allows any rate
            highest = per_hour / self._survival(level)[:, 0]
        return float(weight @ np.searchsorted(self._rates_per_hour, highest, side="right")) / len(_RATE_NODES)

    def with_hours(self, hours: float) -> Tail:
        """What it would probably be with so many hours of the same sound: as many clusters, up to enough.

        With more, the threshold rises instead; a generalised Pareto tail keeps its shape then. The shape is
        taken one deviation below the mean: the lighter the tail, the more sound a bound needs.
        """
        shape, scale, weight = self._posterior
        mean = float(weight @ shape)
        xi = mean - math.sqrt(float(weight @ (shape - mean) ** 2))
        sigma = math.exp(float(weight @ np.log(scale)))
        clusters = max(1, round(min(ENOUGH_CLUSTERS, len(self.excesses) * hours / self.hours)))
        share = min(1.0, clusters * self.hours / (hours * max(1, len(self.excesses))))
        rise = sigma * float(_pareto(np.array(share), xi))
        at = (np.arange(clusters) + 0.5) / clusters
        return Tail(self.threshold + rise, (sigma + xi * rise) * _pareto(at, xi), hours, self.spread)


def fit_tail(margins: Sequence[Float64], *, hop_s: float, gap: int) -> Tail:
    """Fit the tail of contiguous runs of margins.

    Args:
        margins: Runs, each (windows,).
        hop_s: Between two windows.
        gap: Exceedances further apart than this, in windows, belong to two clusters.
    """
    everything = np.concatenate(margins)
    spread = 1.4826 * float(np.median(np.abs(everything - np.median(everything))))
    threshold = float(np.quantile(everything, LOWEST_THRESHOLD))
    apart = np.full(gap + 1, -np.inf)
    joined = np.concatenate([part for run in margins for part in (run, apart)])
    maxima = cluster_maxima(joined, threshold, gap)
    shares = np.geomspace(1 - LOWEST_THRESHOLD, 1 / len(everything), 60)
    for higher in np.quantile(everything, 1 - shares).tolist():
        left = cluster_maxima(joined, higher, gap)
        if len(left) >= ENOUGH_CLUSTERS:
            threshold, maxima = higher, left
    return Tail(threshold, maxima - threshold, len(everything) * hop_s / 3600, spread)


def cluster_maxima(values: Float64, threshold: float, gap: int) -> Float64:
    """Largest value of each cluster of exceedances; those further apart than the gap are two clusters."""
    above = np.flatnonzero(values > threshold)
    if not len(above):
        return np.empty(0)
    firsts = np.flatnonzero(np.diff(above, prepend=above[0] - gap - 1) > gap)
    return np.asarray(np.maximum.reduceat(values[above], firsts))


def _log_survival(excess: Float64, shape: Float64, scale: Float64) -> Float64:
    """Logarithm of the generalised Pareto survival function; arguments broadcast.

    (1 + shape) times it, less the logarithm of the scale, is the log density.
    """
    x = excess / scale
    bounded = np.where(np.abs(shape) < 1e-9, 1e-9, shape)
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(np.maximum(1 + bounded * x, 0.0)) / bounded)


def _pareto(share: Float64, shape: float) -> Float64:
    """Excess, in scales, that a share of the excesses surpasses."""
    return np.asarray(np.expm1(-shape * np.log(share)) / shape if abs(shape) > 1e-9 else -np.log(share))


def _smallest(fails: Callable[[float], bool], step: float) -> float:
    """The smallest number from 0 on for which a monotone condition no longer holds, within a thousandth."""
    if not fails(0.0):
        return 0.0
    low, high = 0.0, step
    while fails(high):
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if fails(middle) else (low, middle)
    return high
