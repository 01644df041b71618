"""The answer of a run in three sentences: scores, what happened inside, and how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hrsa.analysis.ablations import RECIPE
from hrsa.evaluation.evaluate import LEXICAL
from hrsa.report.foreign import as_markdown
from hrsa.report.prose.scores import counted
from hrsa.report.prose.similarity import value_said
from hrsa.report.prose.verdict import power_advice, sight
from hrsa.similarity.metrics import METRICS
from hrsa.study import store
from hrsa.study.profile import Profile
from hrsa.texts.suite import query_prompt
from hrsa.verdict.differences import ALL_TASKS, family_scores, overall_scores

_SHOWN = ("debiased_cka", "knn")  # the global and the local geometry
_INSTRUCTION = "Given a question, retrieve passages that answer it"  # an example of one
_RUNS = "two runs of one recipe"


def answer(profile: Profile, verdicts: pd.DataFrame, controls: pd.DataFrame, similar: pd.DataFrame) -> str:
    """Markdown list of three: what the scores say, what the similarities of the first pair say, and what limits both.

    verdicts: `synthesis.score_verdicts`; controls: `controls.control_verdicts`; similar:
    `synthesis.make_similarities`.
    """
    overall = verdicts[verdicts["family"] == "all"].to_dict("records")
    scores = "; ".join(_scores(row) for row in overall)
    pair = profile.pairs[0].name
    inside = _inside(pair, similar[similar["pair"] == pair]) + (", by layer below" if len(similar) else "")
    return "\n".join([f"- **Scores.** {scores}.", f"- **Inside.** {inside}.",
                      f"- **How far to trust it.** {_limits(profile, overall)} {sight(controls)}"])


def comparison(levels: pd.DataFrame, texts: pd.DataFrame, unit: str) -> str:
    """Markdown list of three for two models as they came: how alike they are, where, and on what.

    levels: `results.make_overview`; texts: as `own_probes.read_texts` gives them; unit: of the rows that are compared.
    """
    by_level = levels.groupby("similarity", sort=False)
    alike = "; ".join(f"{name} {value_said(part['value'].mean(), part['low'].min(), part['high'].max())}, by "
                      f"chance {part['null'].mean():.3f}" for name, part in by_level)
    where = "; ".join(f"{name}: most alike at state {_at(part, 'idxmax')}, least at {_at(part, 'idxmin')}"
                      for name, part in by_level)
    sets = ", ".join(f"{count} of {as_markdown(name)}" for name, count in texts.groupby("set").size().items())
    return "\n".join([f"- **How alike.** Mean over matched states: {alike}.", f"- **Where.** {where}.",
                      f"- **On what.** Each {unit} of {counted(len(texts), 'text')} ({sets}), or a sample of them."])


def _at(part: pd.DataFrame, which: str) -> str:
    row = part.loc[getattr(part["value"], which)()]
    return f"{row['layer_x']} ({row['value']:.3f})"


def _scores(row: Mapping[str, Any]) -> str:
    return (f"{row['pair']}: **{row['verdict']}**, {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] "
            f"at a margin of {row['margin']:g}")


def _inside(pair: str, rows: pd.DataFrame) -> str:
    """Mean similarity over layers before and after training, with what two runs of one recipe have."""
    parts = []
    for metric in _SHOWN:
        found = rows[rows["metric"] == metric].set_index("models")
        told = [f"{value_said(*found.loc[kind, ['value', 'low', 'high']])} {name}" for kind, name in (
            ("backbones", "as language models"), ("embedders", "as embedders")) if kind in found.index]
        if "embedders" in found.index and pd.notna(found.loc["embedders", "runs"]):
            told.append(f"{value_said(*found.loc['embedders', ['runs', 'runs_low', 'runs_high']])} between {_RUNS}")
        if told:
            parts.append(f"{METRICS[metric].name} {', '.join(told)}")
    return f"{pair}: {'; '.join(parts)}" if parts else f"{pair}: nothing was measured"


def _first_blocks(profile: Profile) -> str:
    return "first block" if profile.recipe.layers == 1 else f"first {profile.recipe.layers} blocks"


def _limits(profile: Profile, overall: list[Mapping[str, Any]]) -> str:
    """Which models, how many runs, and on how many tasks both arms could have shown a difference."""
    base = profile.backbones[0]
    depth = f", its {_first_blocks(profile)}" if profile.recipe.layers else ""
    seeds = max(row["seeds"] for row in overall)
    gate = ", ".join(f"{row['pair']} on {row['competent']} of {row['tasks']} tasks" for row in overall
                     if row["competent"] is not None and pd.notna(row["competent"]))
    return (f"All start from {as_markdown(base.path or base.name)}{depth}, with "
            f"{counted(seeds, 'training run')} an arm. Both arms beat chance and their untrained backbones: "
            f"{gate or 'not asked'}.")


_CHOICE = {
    "equivalent": "either will do. The two score the same within the margin: choose by size, licence and price",
    "negligible": "either will do. They differ by less than the margin, in favour of {better}",
    "different": "take {better}",
    "inconclusive": "these data do not decide. Nothing speaks against the cheaper of the two, and nothing proves it as "
                    "good",
    "uninformative": "no advice: on too few tasks could a difference have been seen",
}


def choice(profile: Profile, verdicts: pd.DataFrame) -> str:
    """Markdown list: which backbone of each pair to take, by its verdict on all tasks (`synthesis.score_verdicts`)."""
    lines = []
    for row in verdicts[verdicts["family"] == "all"].to_dict("records"):
        pair = profile.pair(row["pair"])
        better = pair.b if row["difference"] > 0 else pair.a
        lines.append(f"- **{pair.a} or {pair.b}** ({pair.kind}): {_CHOICE[row['verdict']].format(better=better)}. "
                     f"{pair.b} minus {pair.a}: {100 * row['difference']:+.1f} points "
                     f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}], {row['verdict']} at a margin of "
                     f"{counted(100 * row['margin'], 'point', 'g')}.")
    return "\n".join(lines)


def cost_of_more(plan: pd.DataFrame, verdicts: pd.DataFrame, margin: float) -> str:
    """Markdown list: for each pair without a clear verdict the cheapest size that would give one, by `synthesis.plans`;
    a clear one needs none."""
    words = verdicts[verdicts["family"] == "all"].set_index("pair")["verdict"]
    lines = []
    for pair, rows in plan.groupby("pair", sort=False):
        decided = words[pair] in ("equivalent", "negligible", "different")
        lines.append(f"- {pair}: {'decided as it is. ' if decided else ''}{power_advice(rows, margin)}")
    return "\n".join(lines)


def not_covered(profile: Profile, verdicts: pd.DataFrame) -> str:
    """What the advice rests on, and so what it does not speak of: models, depth, length of texts, tasks, training."""
    base, recipe = profile.backbones[0], profile.recipe
    tasks = max(row["tasks"] for row in verdicts[verdicts["family"] == "all"].to_dict("records"))
    cut = f" cut after its {_first_blocks(profile)}" if recipe.layers else ""
    return (f"The advice is about models made from {as_markdown(base.path or base.name)}{cut}, trained for "
            f"{counted(recipe.steps, 'step')} of {recipe.batch_size} queries on texts of at most {recipe.max_length} "
            f"tokens, and scored on {counted(tasks, 'task')}. It says nothing of larger models, longer training, "
            "longer texts, other languages or other domains.")


def choice_table(profile: Profile, scores: pd.DataFrame, gained: pd.DataFrame) -> pd.DataFrame:
    """Scores x 100 by family of tasks: a row for every arm before and after training, for BM25, and for chance.

    Columns: model, condition, a column for each family, and `all tasks` last. scores: `evaluate.make_scores`; gained:
    `differences.training_gains`, which knows chance.
    """
    whole = overall_scores(profile, scores).assign(family=ALL_TASKS)
    rows = pd.concat([family_scores(profile, scores), whole], ignore_index=True)
    chance = gained.drop_duplicates("family")[["family", "chance"]].rename(columns={"chance": "value"})
    rows = pd.concat([rows, chance.assign(arm="chance", condition="")], ignore_index=True)
    rows = rows[~((rows["arm"] == "BM25") & (rows["family"] == ALL_TASKS))]  # it has no score outside retrieval
    table = rows.assign(value=100 * rows["value"]).pivot_table(
        index=["arm", "condition"], columns="family", values="value", sort=False, observed=True)
    table = table[[*(name for name in table.columns if name != ALL_TASKS), ALL_TASKS]]
    shown = {LEXICAL: "", RECIPE: "trained"}
    return table.reset_index().rename_axis(columns=None).rename(columns={"arm": "model"}).replace({"condition": shown})


def embedder_folders(profile: Profile) -> pd.DataFrame:
    """Where the embedders of the recipe lie: [embedder, folder], folders relative to the repository."""
    from hrsa.training.train import train_embedder

    ids = [model.id for model in profile.models() if model.seed is not None and model.ablation is None]
    return pd.DataFrame([(id, (train_embedder(profile, id) / "model").relative_to(store.ROOT).as_posix())
                         for id in ids], columns=["embedder", "folder"])


def loading(folder: str) -> str:
    """Markdown: how the embedder in `folder` is loaded and used."""
    return ("```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            f"model = SentenceTransformer({folder!r})\nprompt = {query_prompt(_INSTRUCTION)!r}\n"
            "queries = model.encode([\"how do I read a file?\"], prompt=prompt)\n"
            "passages = model.encode([\"open(path).read() gives its text\"])\n"
            "model.similarity(queries, passages)\n```")
