"""Tables and sentences of the chapter on texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hrsa.report.foreign import as_code
from hrsa.report.prose.scores import counted
from hrsa.study import store
from hrsa.study.profile import Profile
from hrsa.texts import decontamination, hard_negatives, suite

_SHOWN = 110  # characters of an example
_PARTS = {"train": "train/tasks.json", "eval": "eval/tasks.json", "probe": "probe/sets.json"}


def suite_sources() -> pd.DataFrame:
    """Every task and probe set of the suite [part, name, texts, source, licence], from the data cards."""
    rows = []
    for part, file in _PARTS.items():
        for name, card in store.read_json(store.SUITE / file).items():
            sizes = " / ".join(f"{facts['rows']:,} {table}" for table, facts in card["tables"].items())
            rows.append((part, name, sizes if part == "eval" else sizes.rsplit(" ", 1)[0], "; ".join(card["source"]),
                         card["licence"]))
    return pd.DataFrame(rows, columns=["part", "name", "texts", "source", "licence"])


def training_counts(training: pd.DataFrame) -> pd.DataFrame:
    """Per training task: pairs of this profile and of the suite, and its instruction."""
    cards = store.read_json(store.SUITE / _PARTS["train"])
    rows = [{"task": task, "pairs here": len(part), "pairs in the suite": cards.get(task, {}).get("pairs"),
             "instruction": part["instruction"].iloc[0]} for task, part in training.groupby("task", sort=False)]
    return pd.DataFrame(rows)


def lengths(training: pd.DataFrame) -> pd.DataFrame:
    """Words of every query and passage [task, side, words]."""
    sides = [training[["task"]].assign(side=side, words=training[column].str.split().str.len())
             for side, column in (("query", "query"), ("passage", "positive"))]
    return pd.concat(sides, ignore_index=True)


def evaluation_tasks(profile: Profile) -> pd.DataFrame:
    """The profile's local tasks [task, family, reasoning, queries, texts, metric, instruction], as capped, then a row
    for each benchmark, whose tasks bring all of it themselves."""
    rows = []
    for name in profile.suite.tasks:
        task = suite.load_task(name, profile)
        scored = task.corpus if task.family == "retrieval" else task.test
        rows.append((name, task.family, "yes" if task.reasoning else "no",
                     len(task.queries) if task.family == "retrieval" else None, len(scored), task.metric,
                     task.instruction))
    own = profile.suite.benchmark_tasks
    rows += [(name, "benchmark", "", None, None, "", "each task's own" if own is None else f"of {', '.join(own)}")
             for name in profile.suite.benchmarks]
    table = pd.DataFrame(rows, columns=["task", "family", "reasoning", "queries", "texts", "metric", "instruction"])
    return table.astype({"queries": "Int64", "texts": "Int64"})


def probe_counts(probes: pd.DataFrame) -> pd.DataFrame:
    """Probe texts by set and difficulty: number, topics, words in the median, mean and range of the target."""
    rows = []
    for (name, difficulty), part in probes.groupby(["set", "difficulty"], sort=False):
        rows.append({"set": name, "difficulty": difficulty, "texts": len(part), "topics": part["topic"].nunique(),
                     "median words": float(part["text"].str.split().str.len().median()),
                     "mean target": part["target"].mean(), "least": part["target"].min(), "most": part["target"].max()})
    return pd.DataFrame(rows)


def mining_counts(report: dict[str, Any]) -> pd.DataFrame:
    """Per task what mining did, from `hard_negatives.read_mining_report`."""
    names = {"mined": "pairs mined", "given": "given", "left_out": "left out", "refilled": "refilled",
             "skipped_ranks": "ranks skipped", "suspect_share": "suspect share",
             "suspects_per_query": "suspects per query", "positive_score": "positive", "negative_score": "negative",
             "median_ratio": "median share", "largest_ratio": "largest share"}
    rows = {task: facts | {"median_ratio": facts.get("ratios", {}).get("0.5")} for task, facts in
            report["tasks"].items()}
    table = pd.DataFrame(rows).T.reindex(columns=list(names)).rename(columns=names)
    return table.astype(float).convert_dtypes().rename_axis("task").reset_index()


def mined_scores(folder: Path) -> pd.DataFrame:
    """Similarity of every positive and negative to its query [task, kind, score]."""
    triples = hard_negatives.read_triples(folder, ["task", "positive_score", "negative_scores"])
    positive = triples[["task"]].assign(kind="positive", score=triples["positive_score"])
    negative = triples[["task", "negative_scores"]].explode("negative_scores")
    negative = negative[["task"]].assign(kind="negative", score=negative["negative_scores"].astype(float))
    return pd.concat([positive, negative], ignore_index=True).dropna()


def examples(report: dict[str, Any]) -> pd.DataFrame:
    """One triple per task [task, query, positive, nearest negative], shortened."""
    rows = [(task, *(_short(text) for text in (first["query"], first["positive"], first["negatives"][0])))
            for task, facts in report["tasks"].items() for first in facts.get("examples", [])[:1] if first["negatives"]]
    return pd.DataFrame(rows, columns=["task", "query", "positive", "nearest negative"])


def suspects(report: dict[str, Any]) -> pd.DataFrame:
    """The likeliest false negative of each task [task, query, positive, refused passage, share of the positive's
    similarity], shortened: what the margin kept out."""
    rows = [(task, *(_short(first[name]) for name in ("query", "positive", "suspect")),
             first["suspect_score"] / first["positive_score"] if first["positive_score"] > 0 else None)
            for task, facts in report["tasks"].items() for first in facts.get("suspect_examples", [])[:1]]
    return pd.DataFrame(rows, columns=["task", "query", "positive", "refused passage", "share"])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN].rsplit(" ", 1)[0] + " …"


def margin_sentence(report: dict[str, Any]) -> str:
    """Whether every mined negative lies below the margin, and where false negatives are most likely."""
    mined = {task: facts for task, facts in report["tasks"].items() if facts.get("mined")}
    if not mined:
        return "No negatives were mined: every pair came with its own, or none were asked for."
    worst = max(mined, key=lambda task: mined[task]["suspect_share"])
    largest = max(facts["largest_ratio"] or 0.0 for facts in mined.values())
    held = "Every" if largest <= report["margin"] + 1e-6 else "**Not every**"
    left = sum(facts["left_out"] for facts in mined.values())
    share = sum(facts["suspect_share"] * (facts["mined"] + facts["left_out"]) for facts in mined.values())
    share /= sum(facts["mined"] + facts["left_out"] for facts in mined.values())
    return (f"{held} mined negative has at most {report['margin']:.0%} of its positive's similarity (the largest share "
            f"is {largest:.3f}). {share:.0%} of the queries have at least one passage above the mining margin beside "
            f"their own, most in {as_code(worst)}, {mined[worst]['suspect_share']:.0%}. "
            f"{counted(left, 'pair')} {'was' if left == 1 else 'were'} left out for want of candidates.")


def overlap_sentence(training: pd.DataFrame) -> str:
    """The result of looking for evaluation and probe text in the training pairs of the profile."""
    reserved = decontamination.reserved()
    hits = sum(sum(decontamination.contaminated(training[side], reserved)) for side in ("query", "positive"))
    size = f"{len(reserved):,} sequences of {decontamination.GRAM} words from evaluation and probe texts"
    if hits:
        share = "shares" if hits == 1 else "share"
        return (f"**{counted(hits, 'training text')} {share} one of the {size}.** Scores on those tasks are not to be "
                "trusted.")
    return f"None of the {2 * len(training):,} training texts contains any of the {size}."


def published_sets_card(cards: Sequence[Mapping[str, Any]]) -> str:
    """The data card, in Markdown, of training sets made by `texts.published_sets`, from the card of each."""
    rows = [{"set": as_code(card["name"]), "source": as_code(f"{card['entry']['hub']}@{card['commit'][:12]}"),
             "configurations": as_code(", ".join(card["entry"]["configs"]) or "default"), "rows": f"{card['rows']:,}",
             "pairs": f"{card['pairs']:,}", "triples": f"{card['triples']:,}",
             "published": f"{card['entry']['published']:,}", "left out": f"{card['mined']['left_out']:,}",
             "largest share": f"{card['mined']['largest_ratio']:.3f}",
             "instruction": card["entry"]["instruction"]} for card in cards]
    short = [card["entry"]["title"] for card in cards if card["triples"] < card["entry"]["published"]]
    said = (f"Fewer than published: {', '.join(short)}; the public copy has no more." if short
            else "Every set has as many triples as were published.")
    margins = ", ".join(sorted({f"{card['mining']['margin']:.0%}" for card in cards}))
    embedders = ", ".join(sorted({as_code(card["mining"]["embedder"]) for card in cards}))
    table = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0]),
             *("| " + " | ".join(row.values()) + " |" for row in rows)] if rows else []
    return "\n".join([
        "# The published training sets, made again", "", said, "",
        "Rows: of the source; pairs: of two different texts, each once; triples: pairs of a seeded shuffle with their "
        f"hard negatives, mined with {embedders} below {margins} of the positive's similarity among the positives of "
        "all pairs; left out: pairs with too few candidates; largest share: of a negative's similarity in its "
        "positive's. Licences are those of the sources.", "", *table, "",
        "Written " + ", ".join(sorted({card["written"][:10] for card in cards})) + " by `make paper-data`.", ""])
