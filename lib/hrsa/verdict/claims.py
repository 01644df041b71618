"""The claims of the paper, each with a rule that decides it from this run: holds, fails, inconclusive or not testable.

A rule compares an interval with a threshold, or two intervals with each other. `holds` and `fails` need the interval
wholly on one side; where intervals overlap, or nothing was measured, the outcome is `inconclusive`. A claim that
something rises, where it does not hold, is `not testable` if a rise could not have been seen (`intervals.has_room`).
Thresholds are stated here, before any run, with their reasons.

Similarities come as one row per pair, metric and `models` (backbones, embedders): the mean over matching layers
without the embedding output (inverse row entropy: the last layer, as published), with an interval, the same number for
two runs of one recipe (same arm, other order of data), and that for other arm and other order, which is what the former
is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.intervals import decimals_shown, has_room, order
from hrsa.similarity.metrics import METRICS

HOLDS, FAILS, INCONCLUSIVE, NOT_TESTABLE = OUTCOMES = ("holds", "fails", "inconclusive", "not testable")
SIMILARITY_COLUMNS = ["pair", "kind", "metric", "models", "value", "low", "high", "runs", "runs_low", "runs_high",
                      "crossed", "crossed_low", "crossed_high", "ceiling", "n"]
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
        digits = decimals_shown(self.value, self.low, self.high)
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def against(found: Interval, threshold: float) -> str:
    """`holds` when the interval lies above the threshold, `fails` when below, else `inconclusive`."""
    return HOLDS if found.low > threshold else FAILS if found.high < threshold else INCONCLUSIVE


def above(first: Interval, second: Interval) -> str:
    """`holds` when the first interval lies wholly above the second, `fails` when below, else `inconclusive`.

    >>> low, high = Interval(0.2, 0.1, 0.3), Interval(0.5, 0.4, 0.6)
    >>> above(high, low), above(low, high), above(low, low)
    ('holds', 'fails', 'inconclusive')
    """
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

    def runs(self, metric: str) -> Interval:
        """Embedders of the same arm and other order: two runs of one recipe."""
        return self._read(metric, "embedders", None, ["runs", "runs_low", "runs_high"])

    def crossed(self, metric: str) -> Interval:
        """Embedders of the other arm and other order."""
        return self._read(metric, "embedders", None, ["crossed", "crossed_low", "crossed_high"])

    def room(self, metric: str) -> bool:
        """Whether the backbones could be seen to become more alike, see `intervals.has_room`."""
        before, runs = self.of(metric, "backbones"), self.runs(metric)
        ceiling = self._read(metric, "backbones", None, ["ceiling"]).value
        return has_room(METRICS[metric], before.low, before.high, ceiling, runs.high - runs.low)

    def tokens(self, metric: str) -> str:
        """On how many tokens a value was taken, where it depends on that; else empty."""
        n = self._read(metric, "backbones", None, ["n"]).value
        known = metric in METRICS and METRICS[metric].with_n and np.isfinite(n)
        return f", on {n:,.0f} tokens" if known else ""

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
        return value, f"{threshold:g}{found.tokens(metric)}", against(value, threshold)

    return decide


def _under(metric: str, models: str, threshold: float) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        value = found.of(metric, models)
        return value, f"{threshold:g}{found.tokens(metric)}", _opposite(against(value, threshold))

    return decide


def _rises(metric: str) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        before, after = found.of(metric, "backbones"), found.of(metric, "embedders")
        other, outcome = f"backbones: {before}{found.tokens(metric)}", above(after, before)
        if outcome != HOLDS and not found.room(metric):
            return after, f"{other}, which leaves no rise to be seen", NOT_TESTABLE
        return after, other, outcome

    return decide


def _falls(metric: str) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        before, after = found.of(metric, "backbones"), found.of(metric, "embedders")
        return after, f"backbones: {before}{found.tokens(metric)}", _opposite(above(after, before))

    return decide


def _below_runs(metric: str) -> Callable:
    def decide(found: Similarities) -> tuple[Interval, str, str]:
        crossed, runs = found.crossed(metric), found.runs(metric)
        return crossed, f"two runs of one recipe: {runs}{found.tokens(metric)}", above(runs, crossed)

    return decide


def _opposite(outcome: str) -> str:
    return {HOLDS: FAILS, FAILS: HOLDS}.get(outcome, outcome)


_UNLESS = ("; where it is not, not testable if the backbones' interval reaches the ceiling (one model in float32 and "
           "bf16), or is nearer to identical than 0.05 and than the interval of two runs of one recipe is wide")
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
          f"{_NAMES['inverse_row_entropy']}: embedders' interval above the backbones'{_UNLESS}",
          _rises("inverse_row_entropy")),
    Claim("Contrastive training realigns the global geometry", "geometry, global", BOTH,
          f"{_NAMES['debiased_cka']}: embedders' interval above the backbones'{_UNLESS}", _rises("debiased_cka")),
    Claim("Local neighbourhoods do not come back: overlap falls in contrastive training", "geometry, local", BOTH,
          f"{_NAMES['knn']}: embedders' interval below the backbones'", _falls("knn")),
    Claim("Local neighbourhoods stay reorganised after contrastive training", "geometry, local", BOTH,
          f"{_NAMES['knn']}: interval of embedders of other arm and other order below that of two runs of one recipe "
          "(same arm, other order)", _below_runs("knn")),
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


FURTHER, LESS_FAR = "further", "less far"  # answers, beside INCONCLUSIVE
NOT_COMPARED = "not compared"  # the pair to hold RLVR against is not there
MOVES = ("continued pretraining", "another run of the same RLVR", "SFT")  # what RLVR is held against
MOVEMENT_COLUMNS = ["pair", "against", "other", "metric", "value", "low", "high", "other_value", "other_low",
                    "other_high", "answer"]


def movements(similar: pd.DataFrame, profile: Mapping[str, Any]) -> pd.DataFrame:
    """Whether RLVR moves a backbone further than other training does: `MOVEMENT_COLUMNS`, a row per pair, rival,
    metric.

    `similar` has columns `SIMILARITY_COLUMNS` of which the first seven are read, `profile` is a profile as JSON. RLVR
    pairs, prolonged ones too, are held against the pair of the same base with an arm of continued pretraining, against
    two runs of the same RLVR, and against the SFT pair of the same base. `answer` is "further" or "less far" where the
    intervals of both pairs' backbones are clear of each other, else "inconclusive"; "not compared", with "" for the
    pair and the metric, where the profile or the table has no such pair.
    """
    arms = {backbone["name"]: backbone["arm"] for backbone in profile["backbones"]}
    there = set(similar["pair"])
    pairs = [pair for pair in (*profile["pairs"], *profile.get("analysis_pairs", ())) if pair["name"] in there]
    rows = []
    for pair in pairs:
        if not pair["kind"].startswith("RLVR") or arms[pair["a"]].startswith("rlvr"):
            continue
        rivals = {MOVES[0]: [p for p in pairs if p["a"] == pair["a"] and arms[p["b"]] == "cpt"],
                  MOVES[1]: [p for p in pairs if pair["b"] in (p["a"], p["b"])
                             and arms[p["a"]] == arms[p["b"]] == arms[pair["b"]]],
                  MOVES[2]: [p for p in pairs if p["a"] == pair["a"] and p["kind"] == "SFT"]}
        for against, others in rivals.items():
            if not others:
                rows.append((pair["name"], against, "", "", *[np.nan] * 6, NOT_COMPARED))
            for other in others:
                rows += _movement(similar, pair["name"], against, other["name"])
    return pd.DataFrame(rows, columns=MOVEMENT_COLUMNS)


def _movement(similar: pd.DataFrame, pair: str, against: str, other: str) -> list[tuple]:
    found, rows = Similarities(similar, pair), []
    for metric in METRICS:
        one, two = found.of(metric, "backbones"), found.of(metric, "backbones", other)
        if np.isnan(one.value) or np.isnan(two.value):
            continue
        side = order(one.low, one.high, two.low, two.high) * METRICS[metric].sign
        answer = {-1: FURTHER, 1: LESS_FAR, 0: INCONCLUSIVE}[side]
        rows.append((pair, against, other, metric, one.value, one.low, one.high, two.value, two.low, two.high, answer))
    return rows


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
    """How many claims of each level hold, fail, stay open or cannot be tested."""
    counts = pd.crosstab(claims["level"], claims["outcome"]).reindex(columns=list(OUTCOMES), fill_value=0)
    return counts.reindex(claims["level"].unique()).reset_index().rename_axis(columns=None)


def all_claims(*parts: pd.DataFrame) -> pd.DataFrame:
    """All claims, those about scores first, in one table; ValueError when there are none."""
    rows = [part for part in parts if len(part)]
    if not rows:
        raise ValueError("expected at least one claim to test, got none: the profile has no pair of a published kind")
    return pd.concat(rows, ignore_index=True)
