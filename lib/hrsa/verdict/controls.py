"""Controls: comparisons whose answer is known beforehand, judged by the rule that judges the pairs.

A *negative* control expects the same: one arm from two orders of the data, two runs of one treatment. Called
different, it says that the rule sees differences where there are none. A *positive* control expects a difference: a
random start, a start with noise added to its weights, training on shuffled positives. Where none is found different,
the study could not see, and that it found no difference between its pairs says nothing. The profile names them
(`Profile.controls`); they are trained and scored like all embedders.

A control of another order of the data takes seeds in their order, each with the next: of n seeds n - 1 runs, so that
two seeds leave one run, from which nothing follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hrsa.study.profile import Control, Model, Pair
from hrsa.verdict.equivalence import verdicts
from hrsa.verdict.paired_scores import paired_with_baselines

AS_EXPECTED, CONTRARY, NOT_SHOWN = "as expected", "contrary", "not shown"
CONTROL_COLUMNS = ["control", "expects", "compared", "verdict", "outcome"]
_FOUND = {"different": "different", "negligible": "different", "equivalent": "same"}


def control_models(control: Control, seeds: Sequence[int]) -> tuple[list[str], list[str]]:
    """Ids of the embedders that a control compares, run by run."""
    of_b = seeds[1:] if control.other_order else seeds
    ids_b = [Model(backbone=control.b, seed=seed, ablation=control.ablation).id for seed in of_b]
    return [Model(backbone=control.a, seed=seed).id for seed in seeds[:len(ids_b)]], ids_b


def control_outcome(expects: str, word: str) -> str:
    """Whether a verdict's word is what a control expects.

    A difference within the margin is one for a control that expects a difference, and none for one that expects the
    same.

    >>> [control_outcome("different", word) for word in ("different", "equivalent", "inconclusive")]
    ['as expected', 'contrary', 'not shown']
    """
    if expects == "same" and word == "negligible":
        return AS_EXPECTED
    return NOT_SHOWN if word not in _FOUND else AS_EXPECTED if _FOUND[word] == expects else CONTRARY


def control_verdicts(per_query: pd.DataFrame, controls: Sequence[Control], seeds: Sequence[int], margin: float,
                     alpha: float = 0.05, resamples: int = 2000, pairs: Sequence[Pair] = (),
                     judged: pd.DataFrame | None = None) -> pd.DataFrame:
    """The verdict on every control, corrected over the controls, and whether it is what was expected.

    `per_query` as in `synthesis.score_verdicts`. A control that is one of the `pairs` has the verdict that `judged`
    (their `score_verdicts`) gives that pair: one difference gets one word. Columns of `equivalence.verdicts`, and
    `CONTROL_COLUMNS` first; no rows without controls.
    """
    if not controls:
        return pd.DataFrame(columns=CONTROL_COLUMNS)
    known = {} if judged is None else {(pair.a, pair.b, None, False): pair.name for pair in pairs}
    arms, taken = {}, {}
    for control in controls:
        if same := known.get((control.a, control.b, control.ablation, control.other_order)):
            taken[control.name] = same
            continue
        ids = control_models(control, _scored_seeds(control, seeds, set(per_query["model"])))
        arms[control.name] = paired_with_baselines(per_query, *ids, control.a, control.b)
    parts = [verdicts(arms, margin, alpha, resamples=resamples)] if arms else []
    for name, pair in taken.items():
        row = judged[(judged["pair"] == pair) & (judged["family"] == "all")]
        parts.append(row.drop(columns=["pair", "kind", "family"]).assign(name=name))
    table = pd.concat(parts).set_index("name").loc[[control.name for control in controls]].reset_index()
    table = table.rename(columns={"name": "control"}).assign(
        expects=[control.expects for control in controls], compared=[_compared(control) for control in controls])
    table["outcome"] = list(map(control_outcome, table["expects"], table["verdict"]))
    return table[[*CONTROL_COLUMNS, *(name for name in table.columns if name not in CONTROL_COLUMNS)]]


def could_see(controls: pd.DataFrame) -> bool | None:
    """Whether a positive control was found different; None where the study has none."""
    positive = controls[controls["expects"] == "different"]
    return bool((positive["outcome"] == AS_EXPECTED).any()) if len(positive) else None


def beside_pairs(verdicts: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    """Pairs on all tasks, then controls: [comparison, asked, verdict, difference, low, high].

    asked: "pair", or what a control expects.
    """
    pairs = verdicts[verdicts["family"] == "all"].rename(columns={"pair": "comparison"}).assign(asked="pair")
    known = controls.rename(columns={"control": "comparison"}).assign(asked="expected " + controls["expects"])
    columns = ["comparison", "asked", "verdict", "difference", "low", "high"]
    return pd.concat([part[columns] for part in (pairs, known) if len(part)], ignore_index=True)


def _scored_seeds(control: Control, seeds: Sequence[int], models: set[str]) -> list[int]:
    """Those of the seeds with which both of a control's embedders were scored, ascending."""
    paired = control.model_copy(update={"other_order": False})
    found = [seed for seed in sorted(seeds) if set().union(*control_models(paired, [seed])) <= models]
    if len(found) < 1 + control.other_order:
        raise ValueError(f"expected scores of {_compared(control)} for control {control.name}, got them with seeds "
                         f"{found} of {list(seeds)}: score its embedders (`make book` does)")
    return found


def _compared(control: Control) -> str:
    changes = [f"ablation {control.ablation}"] if control.ablation else []
    changes += ["another order of the data"] if control.other_order else []
    return f"{control.a} and {control.b}" + (f", {' and '.join(changes)}" if changes else "")
