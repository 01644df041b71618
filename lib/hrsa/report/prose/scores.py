"""Tables of scores and of their differences that fit the width of a page: tasks are rows, arms are columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis import intervals
from hrsa.analysis.ablations import AFTER, BEFORE, REALIGNED_METRICS, REALIGNMENT, RECIPE, UNTRAINED
from hrsa.evaluation import foretelling
from hrsa.evaluation.evaluate import LEXICAL, embedding_folder
from hrsa.similarity.metrics import METRICS
from hrsa.study.profile import Profile
from hrsa.verdict.differences import ALIKE, ALL_TASKS, described, overall_scores

MEAN = "mean of all tasks"
DIGIT_SPACE = "\u2007"  # a space as wide as a digit: points stand below each other


def counted(number: float, noun: str, form: str = "") -> str:
    """A number with its noun, in the plural unless it is 1."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:{form}} {noun if number == 1 else many}"


def score_table(profile: Profile, scores: pd.DataFrame) -> pd.DataFrame:
    """One row per task and condition, the means over tasks last; columns task, condition and one for each arm.

    scores: as `evaluate.make_scores` gives them. Cells: "mean ± std over seeds", scores x 100; a single run has no
    std. A mean is over all tasks, and None for an arm that lacks one (BM25 outside retrieval). BM25, which is not
    trained, stands in the untrained rows.
    """
    rows = described(profile, scores).replace({"condition": {LEXICAL: UNTRAINED}})
    runs = rows.pivot_table(index=["condition", "arm", "model"], columns="task", values="value", sort=False,
                            observed=True)
    runs[MEAN] = runs.mean(axis=1, skipna=False)
    by_arm = runs.groupby(level=["condition", "arm"], sort=False)
    mean, std = 100 * by_arm.mean(), 100 * by_arm.std()
    arms = sorted(dict.fromkeys(mean.index.get_level_values("arm")), key="BM25".__eq__)  # BM25 last
    table = [{"task": task, "condition": name}
             | {arm: (mean[task].get((name, arm), np.nan), std[task].get((name, arm), np.nan)) for arm in arms}
             for task in mean.columns for name in dict.fromkeys(mean.index.get_level_values("condition"))]
    shown = pd.DataFrame(table)
    return shown.assign(**{arm: _aligned(shown[arm]) for arm in arms})


def by_dimensions(profile: Profile, scores: pd.DataFrame, fewer: pd.DataFrame) -> str:
    """Mean scores over tasks with all dimensions and with the first of them, a table in Markdown; or that the profile
    asks for none. scores, fewer: from `evaluate.make_scores` and `make_dimension_scores`."""
    if fewer.empty:
        return "This profile scores whole embeddings only (`suite.dimensions` names no fewer dimensions)."
    dense = scores[scores["model"].isin(fewer["model"])].assign(dimensions="all")
    both = pd.concat([dense, fewer.astype({"dimensions": object})])
    rows = [overall_scores(profile, part).assign(dimensions=name)
            for name, part in both.groupby("dimensions", sort=False)]
    table = pd.concat(rows).pivot_table(index=["condition", "arm"], columns="dimensions", values="value", sort=False,
                                        observed=True)
    return (100 * table).reset_index().to_markdown(index=False, floatfmt=".1f")


def _aligned(cells: pd.Series) -> list[str | None]:
    """(mean, std) of a column as text; None without a mean, no "±" without a std."""
    means, stds = ([None if np.isnan(x) else f"{x:.1f}" for x in part] for part in zip(*cells, strict=True))
    wide, narrow = (max(len(x or "") for x in part) for part in (means, stds))
    return [m and m.rjust(wide, DIGIT_SPACE) + (f" ± {s.rjust(narrow, DIGIT_SPACE)}" if s else "")
            for m, s in zip(means, stds, strict=True)]


def difference_table(found: pd.DataFrame) -> pd.DataFrame:
    """Differences for reading: pair, task, "b − a [interval]", and the smallest margin that these data could have
    proved by themselves, in score x 100; from `differences.pair_differences`."""
    shown = [f"{_signed(d)} [{_signed(low)}, {_signed(high)}]"
             for d, low, high in 100 * found[["difference", "low", "high"]].to_numpy()]
    table = found.assign(margin=100 * found["smallest_margin"])[["pair", "task", "margin"]]
    table.insert(2, "b − a [interval]", shown)
    return table.reset_index(drop=True)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−").rjust(6, DIGIT_SPACE)


def kept_sentence(profile: Profile, model_ids: list[str]) -> str:
    """How many embeddings of evaluation texts are kept for these models, and what they take on disk."""
    from hrsa.evaluation.embedding_cache import cache_size

    sizes = [cache_size(embedding_folder(profile, model_id)) for model_id in model_ids]
    texts, used = (sum(part) for part in zip(*sizes, strict=True))
    is_kept, take = ("is kept", "takes") if texts == 1 else ("are kept", "take")
    return (f"{counted(texts, 'embedding', ',')} of {counted(len(sizes), 'model')} {is_kept} in "
            f"`data/runs/{profile.name}/embeddings` and {take} {used / 2**20:,.1f} MB; a changed list of tasks "
            "embeds new texts only. The folder may be deleted.")


def gains(found: pd.DataFrame) -> str:
    """What training did to each arm over all tasks and in retrieval, a list in Markdown; from `training_gains`."""
    lines = []
    for arm, rows in found.groupby("arm", sort=False):
        parts = [f"{_moved(row)} {'retrieval' if row.family == 'retrieval' else 'the mean over tasks'} "
                 f"({row.gain:+.3f} [{row.low:+.3f}, {row.high:+.3f}], from {row.untrained:.3f} to {row.trained:.3f})"
                 for row in rows.itertuples() if row.family in (ALL_TASKS, "retrieval")]
        lines.append(f"- {arm}: contrastive training {', and '.join(parts)}.")
    return "\n".join(lines)


def beside_lexical(profile: Profile, scores: pd.DataFrame) -> str:
    """On how many retrieval tasks each arm's embedders are above BM25, in the mean over seeds; empty without BM25."""
    means = described(profile, scores).pivot_table(index="task", columns=["arm", "condition"], values="value")
    if ("BM25", LEXICAL) not in means:
        return ""
    lexical = means["BM25", LEXICAL].dropna()
    above = {arm: int((means[arm, RECIPE][lexical.index] > lexical).sum()) for arm in profile.trained()}
    said = ", ".join(f"{arm} on {count}" for arm, count in above.items())
    return f"Above BM25, of {counted(len(lexical), 'retrieval task')}: {said}."


def gain_summary(found: pd.DataFrame) -> str:
    """Whether every arm beats its untrained backbone over all tasks and in retrieval, on these tasks and on tasks like
    them; from `training_gains`."""
    asked = found[found["family"].isin([ALL_TASKS, "retrieval"])]
    here, like = (asked[asked[column] <= 0] for column in ("low", "like_low"))
    if here.empty:
        said = ("**Every embedder beats its untrained backbone** on these tasks, in the mean over all and in "
                "retrieval, with intervals clear of zero.")
    else:
        said = f"**Not every embedder is shown to beat its untrained backbone** on these tasks: {_arms(here)}."
    wider = ("The same holds for tasks like these." if like.empty else
             f"For tasks like these, as drawn from a larger number, it is not shown of {_arms(like)}.")
    return f"{said} {wider}"


def _arms(rows: pd.DataFrame) -> str:
    return ", ".join(f"{row.arm} ({row.family})" for row in rows.itertuples())


def _moved(row: Any) -> str:
    return "raised" if row.low > 0 else "lowered" if row.high < 0 else "did not measurably change"


def items_alike(points: pd.DataFrame) -> str:
    """How far both arms succeed on the same items of `query_table`, a list in Markdown.

    The correlation is taken within tasks (scores less their task's mean), so that easy and hard tasks do not make it.
    """
    lines = []
    for pair, rows in points.groupby("pair", sort=False):
        gap = rows["b"] - rows["a"]
        alike, higher = (gap.abs() < ALIKE).mean(), (gap >= ALIKE).mean()
        within = rows[["a", "b"]] - rows.groupby("task")[["a", "b"]].transform("mean")
        varies = bool((within.std() > ALIKE).all())
        r = f"{within['a'].corr(within['b']):.2f}" if varies else "undefined, as an arm scores all items alike"
        lines.append(f"- {pair}: of {counted(len(rows), 'item')} {alike:.0%} are scored alike by both arms, "
                     f"{higher:.0%} higher by b and {1 - alike - higher:.0%} higher by a; correlation within tasks "
                     f"{r}.")
    return "\n".join(lines)


def difference_sentence(row: pd.Series) -> str:
    """One row of `differences.pair_differences` as text: the numbers, and no verdict on them."""
    runs = f"{row['seeds']} seeds" if row["seeds"] > 1 else "one run of each arm, which says nothing of other runs"
    return (f"**{row['pair']}**, {row['condition']}, {row['task']}: b − a = {row['difference']:+.4f} "
            f"[{row['low']:+.4f}, {row['high']:+.4f}], {runs}.")


def against_recipe(overall: pd.DataFrame) -> str:
    """Whether an ablation moves the difference between arms, by the intervals of "all tasks", a list in Markdown."""
    lines = []
    for pair, rows in overall.groupby("pair", sort=False):
        base = intervals.only_row(rows, condition=RECIPE)
        for _, row in rows[rows["condition"] != RECIPE].iterrows():
            side = intervals.order(row["low"], row["high"], base["low"], base["high"])
            said = {1: "is larger than", -1: "is smaller than", 0: "cannot be told from"}[side]
            lines.append(f"- {pair}: the difference under *{row['condition']}* {said} the recipe's by its interval.")
    return "\n".join(lines)


def ablation_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `differences.make_ablation_table` for reading, scores x 100: what is changed, the score of each arm,
    their difference, the change of their mean against the recipe, the verdict (None for one seed), the seconds."""
    shown = pd.DataFrame({"condition": condition_names(table), "changed": [
        f"{row.setting} = {row.value}" if row.setting else "" for row in table.itertuples()]})
    return shown.assign(**{
        "a": 100 * table["score_a"], "b": 100 * table["score_b"],
        "b − a [interval]": _spans(100 * table[["difference", "low", "high"]]),
        "both − recipe [interval]": _spans(100 * table[["change", "change_low", "change_high"]]),
        "verdict": table["verdict"], "seeds": table["seeds"], "seconds": table["seconds"]})


def ablation_likeness(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `differences.make_ablation_table` for reading: each measure before and after training, and what it
    moved."""
    shown = pd.DataFrame({"condition": condition_names(table)})
    for metric in REALIGNED_METRICS:
        before, after, moved = (f"{metric}_{name}" for name in (BEFORE, AFTER, REALIGNMENT))
        name = METRICS[metric].name
        shown[f"{name} before"], shown[f"{name} after"] = table[before], table[after]
        shown[f"{name}: realignment"] = _spans(table[[moved, f"{moved}_low", f"{moved}_high"]], 4)
    return shown


def _spans(bounds: pd.DataFrame, decimals: int = 2) -> list[str | None]:
    """Values with their bounds as text; None where there is none."""
    return [None if np.isnan(row).any() else "{} [{}, {}]".format(
        *(f"{number:+.{decimals}f}".replace("-", "−") for number in row)) for row in bounds.to_numpy(float)]


def realignment_points(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `differences.make_ablation_table`, once per measure: [condition, measure, realignment, low, high,
    change]."""
    parts = []
    for metric in REALIGNED_METRICS:
        moved = f"{metric}_{REALIGNMENT}"
        parts.append(pd.DataFrame({
            "condition": condition_names(table), "measure": METRICS[metric].name, "realignment": table[moved],
            "low": table[f"{moved}_low"], "high": table[f"{moved}_high"], "change": table["change"]}))
    return pd.concat(parts, ignore_index=True)


def condition_names(table: pd.DataFrame) -> list[str]:
    """Names of the rows, with their pair where there are several."""
    several = len(set(table["pair"]) - {""}) > 1
    return [f"{row.ablation}, {row.pair}" if several and row.pair else row.ablation for row in table.itertuples()]


def realignment_and_scores(found: pd.DataFrame) -> str:
    """Whether conditions that realign the arms more score higher, a list in Markdown; from
    `differences.realignment_against_scores`."""
    lines = []
    for row in found.itertuples():
        if np.isnan(row.rho):
            why = "are alike in realignment or in score" if row.rows >= 5 else \
                f"{'is' if row.rows == 1 else 'are'} too few for a correlation"
            lines.append(f"- {row.pair}, {METRICS[row.metric].name}: {counted(row.rows, 'row')} {why}.")
            continue
        said = {1: "more realignment goes with higher scores", -1: "more realignment goes with lower scores",
                0: "no relation is shown"}[intervals.order(row.low, row.high, 0.0, 0.0)]
        lines.append(f"- {row.pair}, {METRICS[row.metric].name}: {said}; rank correlation {row.rho:+.2f} "
                     f"[{row.low:+.2f}, {row.high:+.2f}] over {row.rows} rows.")
    return "\n".join(lines)


def realignment_sentences(table: pd.DataFrame) -> str:
    """Per measure which conditions realign the arms, which drive them apart and which are not told, in Markdown."""
    lines = []
    for metric in REALIGNED_METRICS:
        moved = f"{metric}_{REALIGNMENT}"
        sides: dict[int, list[str]] = {1: [], -1: [], 0: []}
        for row in table.to_dict("records"):
            side = intervals.order(row[f"{moved}_low"], row[f"{moved}_high"], 0.0, 0.0)
            sides[side].append(f"{row['ablation']} ({row[moved]:+.2g})")
        words = {1: "training brings the arms closer under", -1: "it drives them apart under",
                 0: "neither is told under"}
        said = "; ".join(f"{words[side]} {', '.join(names)}" for side, names in sides.items() if names)
        lines.append(f"- {METRICS[metric].name}: {said}.")
    return "\n".join(lines)


def failure_signatures(table: pd.DataFrame) -> str:
    """The three signs of a recipe gone wrong, each with the numbers of its row of `differences.make_ablation_table`, a
    list in Markdown.

    Adapters that train worse than all weights, a causal mask that was kept, arms that were trained for unequal times.
    A row is found by what it changes and not by its name; where there is none, that is said.
    """
    both = table[table["pair"] != ""]
    full = both[[_changes(row, "lora", "none") for row in both.itertuples()]]
    causal = both[[_changes(row, "attention", "causal") for row in both.itertuples()]]
    unequal = table[[_trained_unequally(row) for row in table.itertuples()]]
    told = [("Adapters that train worse than all weights", full, _full_said),
            ("A causal mask that was kept", causal, _causal_said),
            ("Unequal durations", unequal, _unequal_said)]
    lines = []
    for name, rows, say in told:
        said = "; ".join(f"{say(row)} (row *{row.ablation}*{_runs(row)})" for row in rows.itertuples())
        lines.append(f"- **{name}**: {said or 'no row of the table has it'}.")
    return "\n".join(lines)


def _runs(row: Any) -> str:
    return ", one seed" if row.seeds == 1 else ""


def _changes(row: Any, setting: str, value: str) -> bool:
    return dict(zip(row.setting.split(", "), row.value.split(", "), strict=False)).get(setting) == value


def _trained_unequally(row: Any) -> bool:
    return "steps" in row.unlike.split(", ")


def _full_said(row: Any) -> str:
    return {1: "seen here: all weights score higher than the recipe's adapters, by", -1: "not seen here: all weights "
            "score lower than the recipe's adapters, by", 0: "not seen here: all weights and the recipe's adapters are "
            "not told apart, at"}[_side(row, "change")] + f" {_span(row, 'change')}"


def _causal_said(row: Any) -> str:
    return {1: "it costs nothing here: scores rise, by", -1: "it would show here: scores fall, by",
            0: "it would not show in these scores: the change is"}[_side(row, "change")] + f" {_span(row, 'change')}"


def _unequal_said(row: Any) -> str:
    spurious = "a difference shows that no backbone made" if _side(row, "") else "no difference shows between the arms"
    return (f"{spurious}, {row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}], and the fingerprint refuses the "
            f"comparison either way: the arms differ in {row.unlike}")


def _side(row: Any, name: str) -> int:
    """Which side of zero an interval lies on; 0 where it holds zero."""
    prefix = f"{name}_" if name else ""
    return intervals.order(getattr(row, f"{prefix}low"), getattr(row, f"{prefix}high"), 0.0, 0.0)


def _span(row: Any, name: str) -> str:
    return f"{getattr(row, name):+.4f} [{getattr(row, f'{name}_low'):+.4f}, {getattr(row, f'{name}_high'):+.4f}]"


def committed_ablations(record: dict[str, Any]) -> str:
    """Markdown: which run the committed table of ablations is of, and which of its rows are not done."""
    profile, missing = record["profile"], record["not_done"]
    rows = "Every row is done." if not missing else f"**Not done yet**: {', '.join(missing)}."
    if len(runs := record.get("runs", ())) > 1:
        count = Counter(run["commit"][:12] for run in runs for _ in run["rows"])
        parts = [f"{n} row{'s are' if n > 1 else ' is'} of commit `{commit}`" for commit, n in count.items()]
        rows = (f"{'; '.join(parts)}; each is held against the recipe as its own run trained it, whose scores differ "
                f"between runs by at most {100 * record['recipe_differs']:.2f} points. {rows}")
    return f"{_committed(record, 'table is that', 'it', profile['seeds'], record['seconds'] / 3600)} {rows}"


def committed_film(record: dict[str, Any]) -> str:
    """Markdown: which run the committed similarities over the steps of training are of."""
    return _committed(record, "tables are those", "them", record["profile"]["seeds"][:2], record["hours"])


def _committed(record: dict[str, Any], what: str, it: str, seeds: Sequence[int], hours: float) -> str:
    return (f"**Committed results.** The {what} of profile `{record['profile']['name']}`, seeds "
            f"{', '.join(map(str, seeds))}, made in {hours:.1f} hours of computing on {record['machine']}, written "
            f"{record['written']} by `{record['command']}` at commit `{record['commit'][:12]}`. This run did not "
            f"compute {it}.")


FORETOLD = {foretelling.DIFFERING[0]: "how far the two arms' embedders differ on a query",
             foretelling.DIFFERING[1]: "how far two runs of one arm differ on it"}


def foretold_by_pair(profile: Profile, per_query: pd.DataFrame) -> pd.DataFrame:
    """What is foretold out of sample of the embedders' scores, by pair: [pair, of, predictors, share, low, high,
    queries]; empty without a local retrieval task, NaN for an outcome that `foretelling.foretold` refuses."""
    rows = []
    for pair in profile.pairs if foretelling.has_local_retrieval(profile) else ():
        table = foretelling.behaviour_table(profile, pair.name, per_query)
        for outcome in foretelling.DIFFERING:
            known = table.dropna(subset=[outcome])
            try:
                found = foretelling.foretold(known, outcome, foretelling.KNOWN_SCORES)
            except ValueError:  # too few queries, or none that differ, as `foretold_said` says
                found = pd.DataFrame({"predictors": [*foretelling.PREDICTORS, "gain"], "share": np.nan, "low": np.nan,
                                      "high": np.nan})
            rows.append(found.assign(pair=pair.name, of=FORETOLD[outcome], queries=len(known)))
    columns = ["pair", "of", "predictors", "share", "low", "high", "queries"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def foretold_said(table: pd.DataFrame) -> str:
    """Markdown list: whether local change adds to what scores foretell, from `foretold_by_pair`."""
    if table.empty:
        return "The profile scores no local retrieval task: this was not asked."
    lines = []
    for (pair, of), part in table.groupby(["pair", "of"], sort=False):
        rows = part.set_index("predictors")
        gain, alone = rows.loc["gain"], rows.loc[foretelling.PREDICTORS[0]]
        if np.isnan(gain["share"]):
            lines.append(f"- {pair}, {of}: not asked, since of {counted(part['queries'].iloc[0], 'query')} too few "
                         "are there or none differs.")
            continue
        word = "adds to it" if gain["low"] > 0 else "takes from it" if gain["high"] < 0 else "adds nothing that shows"
        lines.append(f"- {pair}, {of}: scores of the untrained models foretell {alone['share']:.1%} of its variance "
                     f"within tasks [{alone['low']:.1%}, {alone['high']:.1%}], and local change {word}: "
                     f"{100 * gain['share']:+.1f} points [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}], "
                     f"{part['queries'].iloc[0]:,} queries.")
    return "\n".join(lines)
