"""How well scores tell normal from faulty: area under the curve, whole and partial. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import harmonic_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_FPR = 0.1

Float64 = NDArray[np.float64]


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
