"""The registry of similarities: what each metric is called, how far it goes, which way is more alike, how it is drawn.

Figures, claims and prose read names, ranges, directions and colours here. What is claimed of a metric stands here as
data, and tests are generated from it for every metric.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

CHANGES = ("rotation", "scale", "shift", "permutation")


@dataclass(frozen=True)
class Metric:
    """A similarity of two (n, d) arrays: how it is shown, and what is claimed of it.

    `name` is what prints, `unit` what its numbers count ("" for a plain ratio), `low` and `high` bound the range,
    `direction` says whether larger values ("up") or smaller ones ("down") mean more alike models. `axis` holds the
    bounds of an axis and of a colour scale (None: those of the data) and `colours` is matplotlib's name of the scale.
    `family` names the metrics that are compared together; those of family "more" are computed on request alone
    (`analysis.more`). `has_k` says that a value belongs to a number of neighbours. `with_n` says which way the value
    goes as tokens are added ("" where it only gets less noisy): such values are compared at equal n, and shown with it.
    `power` makes the distance from `identical` a squared distance, as 1 - CKA is between normalised Gram matrices:
    squared distances add up over independent causes.

    `invariant` names the changes of *one* of the two arrays that leave the value as it is: `rotation` (any
    orthogonal map of the dimensions), `scale` (one positive factor for all), `shift` (one vector added to every
    row) and `permutation` (of the dimensions). Any other of `CHANGES` must move it. `identical` is the value of
    an array with itself, `symmetric` says that (x, y) and (y, x) give the same value, and `same_width` that d must
    be equal.
    """

    name: str
    low: float
    high: float
    direction: Literal["up", "down"]
    axis: tuple[float, float] | None
    colours: str
    family: str
    invariant: frozenset[str]
    identical: float
    symmetric: bool
    same_width: bool
    source: str
    unit: str = ""
    with_n: Literal["", "up", "down"] = ""
    power: float = 1.0
    has_k: bool = False

    def __post_init__(self) -> None:
        unknown = self.invariant - set(CHANGES)
        if unknown:
            raise ValueError(f"expected invariances of {self.name} among {CHANGES}, got {sorted(unknown)}")

    @property
    def label(self) -> str:
        """The name with its unit, for an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def sign(self) -> int:
        """1 where larger values mean more alike models, -1 where smaller ones do."""
        return 1 if self.direction == "up" else -1

    def apart(self, value: Any) -> Any:
        """Distance of values (any shape) from `identical`: 0 for a model and itself, larger for less alike ones."""
        return self.sign * (self.identical - np.asarray(value, dtype=float))


_BASIS_FREE = frozenset(CHANGES)
_ABOUT_ORIGIN = _BASIS_FREE - {"shift"}  # angles between tokens
MORE = "more"  # the family of what is computed on request
_REPRESENTATION, _LOCAL = "arXiv 2601.21192, representation level", "arXiv 2601.21192, local geometry"

METRICS: dict[str, Metric] = {
    "correlation": Metric(
        "dimension-wise correlation", -1.0, 1.0, "up", axis=(-1, 1), colours="RdBu_r", family="correlation",
        invariant=frozenset({"scale", "shift"}), identical=1.0, symmetric=True, same_width=True,
        source=_REPRESENTATION),
    "inverse_row_entropy": Metric(
        "inverse row entropy", 0.0, 1.0, "up", axis=(0, 1), colours="magma", family="procrustes",
        invariant=_BASIS_FREE - {"rotation"}, identical=1.0, symmetric=False, same_width=False,
        source=_REPRESENTATION, with_n="up"),  # the fewer tokens, the more of the map is fitted to noise
    "residual_ratio": Metric(
        "residual ratio", 0.0, np.inf, "down", axis=None, colours="magma", family="procrustes",
        invariant=_BASIS_FREE - {"scale"}, identical=0.0, symmetric=False, same_width=False, source=_REPRESENTATION,
        with_n="up"),  # a map of d^2 entries fits few tokens better than many
    "mean_cosine": Metric(
        "mean cosine", -1.0, 1.0, "up", axis=(-1, 1), colours="RdBu_r", family="procrustes", invariant=_BASIS_FREE,
        identical=1.0, symmetric=True, same_width=False, source=_REPRESENTATION, with_n="down"),
    "angular_distance": Metric(
        "angular distance", 0.0, np.pi / 2, "down", axis=(0, np.pi / 2), colours="magma", family="procrustes",
        invariant=_BASIS_FREE, identical=0.0, symmetric=True, same_width=False, source="Williams et al. 2021, eq. 4",
        unit="radians", with_n="up", power=2.0),
    "cka": Metric(
        "linear CKA", 0.0, 1.0, "up", axis=(0, 1), colours="viridis", family="cka", invariant=_BASIS_FREE,
        identical=1.0, symmetric=True, same_width=False, source="Kornblith et al. 2019, eq. 4",
        with_n="down"),
    "debiased_cka": Metric(
        "debiased CKA", -1.0, 1.0, "up", axis=(0, 1), colours="viridis", family="cka", invariant=_BASIS_FREE,
        identical=1.0, symmetric=True, same_width=False,
        source="Song et al. 2012, eq. 4; Nguyen et al. 2021, eq. 3"),
    "knn": Metric(
        "k-NN overlap", 0.0, 1.0, "up", axis=(0, 1), colours="cividis", family="knn",
        invariant=_ABOUT_ORIGIN, identical=1.0, symmetric=True, same_width=False,
        source=_LOCAL, unit="Jaccard index", with_n="down", has_k=True),  # of more tokens, the k nearest are nearer
    "mutual_knn": Metric(
        "mutual k-NN", 0.0, 1.0, "up", axis=(0, 1), colours="cividis", family=MORE, invariant=_ABOUT_ORIGIN,
        identical=1.0, symmetric=True, same_width=False, source="Huh et al. 2024, arXiv 2405.07987",
        unit="share of neighbours", with_n="down", has_k=True),
    "cknna": Metric(
        "CKNNA", -1.0, 1.0, "up", axis=(0, 1), colours="cividis", family=MORE, invariant=_ABOUT_ORIGIN, identical=1.0,
        symmetric=True, same_width=False, source="Huh et al. 2024, arXiv 2405.07987, appendix A", with_n="down",
        has_k=True),
    "rsa": Metric(
        "RSA", -1.0, 1.0, "up", axis=(0, 1), colours="viridis", family=MORE, invariant=_ABOUT_ORIGIN, identical=1.0,
        symmetric=True, same_width=False, source="Kriegeskorte et al. 2008", unit="rank correlation"),
    "svcca": Metric(
        "SVCCA", 0.0, 1.0, "up", axis=(0, 1), colours="viridis", family=MORE, invariant=_BASIS_FREE, identical=1.0,
        symmetric=True, same_width=False, source="Raghu et al. 2017, arXiv 1706.05806",
        with_n="down"),  # the fewer tokens, the better any two subspaces can be made to correlate
}
METRIC_FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(key for key, metric in METRICS.items() if metric.family == family)
    for family in dict.fromkeys(metric.family for metric in METRICS.values()) if family != MORE}
ON_REQUEST = tuple(key for key, metric in METRICS.items() if metric.family == MORE)
KS = (5, 10, 50)  # numbers of neighbours, as published
_SHOWN = 10  # the middle of the published


def shown_k(ks: Iterable[int]) -> int:
    """The number of neighbours that figures, claims and prose show where they show one: the nearest to 10.

    Of two that are equally near, the smaller. ValueError: none to choose from.

    >>> shown_k([5, 12, 50])
    12
    """
    known = sorted(set(ks))
    if not known:
        raise ValueError("expected at least one number of neighbours to choose from, got none: set analysis.ks")
    return min(known, key=lambda k: abs(k - _SHOWN))
