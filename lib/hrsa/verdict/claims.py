"""The claims of the paper, each with a rule that decides it from this run: holds, fails or inconclusive.

A rule compares an interval with a threshold, or two intervals with each other. `holds` and `fails` need the interval
wholly on one side; where intervals overlap, or nothing was measured, the outcome is `inconclusive`. Thresholds are
stated here, before any run, with their reasons.

Similarities come as one row per pair, metric and `models` (backbones, embedders): the mean over matching layers
without the embedding output (inverse row entropy: the last layer, as published), with an interval and the noise
floor, which is the same number for two seeds of one arm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hrsa.similarity.metrics import METRICS

HOLDS, FAILS, INCONCLUSIVE = _OUTCOMES = ("holds", "fails", "inconclusive")
SIMILARITY_COLUMNS = ["pair", "kind", "metric", "models", "value", "low", "high", "floor_low", "floor_high"]
_CORRELATION = 0.9  # dimensions that keep four fifths of their variance (0.9 squared) count as preserved
_ENTROPY = 0.8  # the published RLVR backbones that were not trained for long lie above it on MMLU-Pro and mostly on CoT
_CKA = 0.95  # near-isometric; shuffled rows give about 0 once debiased
_TRANSFER = 0.05  # a readout that loses less than five points on the other model has been carried over
_NAMES = {key: metric.name for key, metric in METRICS.items()}


@dataclass(frozen=True)
class Interval:
    """A measured value with its interval; NaN where it was not measured."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "not measured"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def against(found: Interval, threshold: float) -> str:
    """`holds` when the interval lies above the threshold, `fails` when below, else `inconclusive`."""
    return HOLDS if found.low > threshold else FAILS if found.high < threshold else INCONCLUSIVE


def above(first: Interval, second: Interval) -> str:
    """`holds` when the first interval lies wholly above the second, `fails` when below, else `inconclusive`."""
    return HOLDS if first.low > second.high else FAILS if first.high < second.low else INCONCLUSIVE


def outcome_of_verdict(verdict: str) -> str:
    """`holds` for equivalent or negligible, `fails` for different, else `inconclusive`."""
    return {"equivalent": HOLDS, "negligible": HOLDS, "different": FAILS}.get(verdict, INCONCLUSIVE)


@dataclass(frozen=True)
class Similarities:
    """Look-up of the rows of one pair in a table of similarities."""

    table: pd.DataFrame
    pair: str

    def of(self, metric: str, models: str, pair: str | None = None) -> Interval:
        """Value and interval; ValueError when the table holds more than one."""
        return self._read(metric, models, pair, ["value", "low", "high"])

    def floor(self, metric: str) -> Interval:
        """Noise floor of the embedders: two seeds of one arm."""
        bounds = self._read(metric, "embedders", None, ["floor_low", "floor_low", "floor_high"])
        return Interval((bounds.low + bounds.high) / 2, bounds.low, bounds.high)

    def _read(self, metric: str, models: str, pair: str | None, columns: list[str]) -> Interval:
        t = self.table
        rows = t[(t["pair"] == (pair or self.pair)) & (t["metric"] == metric) & (t["models"] == models)]
        if len(rows) > 1:
            raise ValueError(f"expected one row for {metric} of {pair or self.pair}, {models}, got {len(rows)}")
        return Interval(*rows.iloc[0][columns].astype(float)) if len(rows) else Interval()


@dataclass(frozen=True)
class Claim:
    """A claim of the paper about a kind of pair, and the code that decides it."""

    claim: str
    level: str
    kinds: tuple[str, ...]  # of pairs it speaks of
    rule: str  # the decision in words
    decide: Callable[[Similarities], tuple[Interval, str, str]]  # -> measured, what it is compared with, outcome


def _over(metric: str, models: str, threshold: float) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        value = found.of(metric, models)
        return value, f"{threshold:g}", against(value, threshold)

    return decide


def _under(metric: str, models: str, threshold: float) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        value = found.of(metric, models)
        return value, f"{threshold:g}", _opposite(against(value, threshold))

    return decide


def _rises(metric: str) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        before, after = found.of(metric, "backbones"), found.of(metric, "embedders")
        return after, f"backbones: {before}", above(after, before)

    return decide


def _falls(metric: str) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        after, other, outcome = _rises(metric)(found)
        return after, other, _opposite(outcome)

    return decide


def _below_floor(metric: str) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        after, floor = found.of(metric, "embedders"), found.floor(metric)
        return after, f"two seeds of one arm: {floor}", above(floor, after)

    return decide


def _opposite(outcome: str) -> str:
    return {HOLDS: FAILS, FAILS: HOLDS}.get(outcome, outcome)


RLVR, BOTH = ("RLVR",), ("RLVR", "RLVR, prolonged", "SFT")
CLAIMS = (
    Claim("RLVR keeps the representation: dimensions still mean the same", "representation", RLVR,
          f"interval of the backbones' {_NAMES['correlation']} above {_CORRELATION}",
          _over("correlation", "backbones", _CORRELATION)),
    Claim("RLVR keeps the basis", "representation", RLVR,
          f"interval of the backbones' {_NAMES['inverse_row_entropy']} above {_ENTROPY}",
          _over("inverse_row_entropy", "backbones", _ENTROPY)),
    Claim("SFT mixes dimensions", "representation", ("SFT",),
          f"interval of the backbones' {_NAMES['correlation']} below {_CORRELATION}",
          _under("correlation", "backbones", _CORRELATION)),
    Claim("RLVR leaves the global geometry near-isometric", "geometry, global", RLVR,
          f"interval of the backbones' {_NAMES['debiased_cka']} above {_CKA}",
          _over("debiased_cka", "backbones", _CKA)),
    Claim("SFT distorts the global geometry", "geometry, global", ("SFT",),
          f"interval of the backbones' {_NAMES['debiased_cka']} below {_CKA}",
          _under("debiased_cka", "backbones", _CKA)),
    Claim("Contrastive training realigns the basis", "representation", BOTH,
          f"{_NAMES['inverse_row_entropy']}: embedders' interval above the backbones'", _rises("inverse_row_entropy")),
    Claim("Contrastive training realigns the global geometry", "geometry, global", BOTH,
          f"{_NAMES['debiased_cka']}: embedders' interval above the backbones'", _rises("debiased_cka")),
    Claim("Local neighbourhoods do not come back: overlap falls in contrastive training", "geometry, local", BOTH,
          f"{_NAMES['knn']}: embedders' interval below the backbones'", _falls("knn")),
    Claim("Local neighbourhoods stay reorganised after contrastive training", "geometry, local", BOTH,
          f"{_NAMES['knn']}: embedders' interval below that of two seeds of one arm", _below_floor("knn")),
    Claim("Readouts transfer between base and RLVR model", "function", RLVR,
          f"interval of the backbones' loss below {_TRANSFER}", _under("probe_delta", "backbones", _TRANSFER)),
    Claim("Readouts of the base degrade on the SFT model", "function", ("SFT",),
          f"interval of the backbones' loss above {_TRANSFER}", _over("probe_delta", "backbones", _TRANSFER)),
    Claim("After contrastive training readouts are aligned", "function", BOTH,
          f"interval of the embedders' loss below {_TRANSFER}", _under("probe_delta", "embedders", _TRANSFER)),
)
_BETWEEN_KINDS = (("correlation", "representation"), ("debiased_cka", "geometry, global"), ("knn", "geometry, local"))


def similarity_claims(similar: pd.DataFrame) -> pd.DataFrame:
    """Outcome of every claim about similarity for every pair it speaks of; `similar`: columns `SIMILARITY_COLUMNS`."""
    missing = [name for name in SIMILARITY_COLUMNS if name not in similar.columns]
    if missing:
        raise ValueError(f"expected columns {SIMILARITY_COLUMNS}, got {list(similar.columns)}: add {missing}")
    kinds = similar.drop_duplicates("pair").set_index("pair")["kind"]
    rows = []
    for claim in CLAIMS:
        for pair in kinds.index[kinds.isin(claim.kinds)]:
            found, other, outcome = claim.decide(Similarities(similar, pair))
            rows.append(_row(claim.claim, claim.level, pair, claim.rule, found, f"against {other}", outcome))
    for metric, level in _BETWEEN_KINDS:
        for sft in kinds.index[kinds == "SFT"]:
            for rlvr in kinds.index[kinds == "RLVR"]:
                found = Similarities(similar, sft)
                one, other = found.of(metric, "backbones"), found.of(metric, "backbones", rlvr)
                rows.append(_row("SFT changes a backbone more than RLVR", level, f"{sft}, {rlvr}",
                                 f"{_NAMES[metric]}: the SFT pair's interval below the RLVR pair's", one,
                                 f"against {rlvr}: {other}", _opposite(above(one, other))))
    return pd.DataFrame(rows)


def score_claims(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Outcome of the null effect for every RLVR pair, overall and per family of tasks.

    `verdicts`: columns pair, kind, family ("all" for overall), verdict, difference, low, high, margin.
    """
    rows = []
    for row in verdicts[verdicts["kind"].str.startswith("RLVR")].to_dict("records"):
        found = Interval(row["difference"], row["low"], row["high"])
        where = "all tasks weighed equally" if row["family"] == "all" else f"{row['family']} tasks"
        rows.append(_row(f"Null effect: an RLVR start scores like its base, {where}", "scores", row["pair"],
                         "verdict equivalent or negligible holds, different fails", found,
                         f"against a margin of {row['margin']:g}: {row['verdict']}",
                         outcome_of_verdict(row["verdict"])))
    return pd.DataFrame(rows)


def _row(claim: str, level: str, pair: str, rule: str, found: Interval, other: str, outcome: str) -> dict:
    return {"claim": claim, "level": level, "pair": pair, "rule": rule, "measured": f"{found}, {other}",
            "value": found.value, "low": found.low, "high": found.high, "outcome": outcome}


def count_outcomes(claims: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each level hold, fail or stay open."""
    counts = pd.crosstab(claims["level"], claims["outcome"]).reindex(columns=list(_OUTCOMES), fill_value=0)
    return counts.reindex(claims["level"].unique()).reset_index().rename_axis(columns=None)


def all_claims(*parts: pd.DataFrame) -> pd.DataFrame:
    """All claims, those about scores first, in one table; ValueError when there are none."""
    rows = [part for part in parts if len(part)]
    if not rows:
        raise ValueError("expected at least one claim to test, got none: the profile has no pair of a published kind")
    return pd.concat(rows, ignore_index=True)
