"""The answer of a run in three sentences: scores, what happened inside, and how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hrsa.report.prose.verdict import sight
from hrsa.similarity.metrics import METRICS
from hrsa.study.profile import Profile

_SHOWN = ("debiased_cka", "knn")  # the global and the local geometry
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
    alike = "; ".join(f"{name} {part['value'].mean():.3f} [{part['low'].min():.3f}, {part['high'].max():.3f}], by "
                      f"chance {part['null'].mean():.3f}" for name, part in by_level)
    where = "; ".join(f"{name}: most alike at state {_at(part, 'idxmax')}, least at {_at(part, 'idxmin')}"
                      for name, part in by_level)
    sets = ", ".join(f"{count} of {name}" for name, count in texts.groupby("set").size().items())
    return "\n".join([f"- **How alike.** Mean over matched states: {alike}.", f"- **Where.** {where}.",
                      f"- **On what.** Each {unit} of {len(texts)} texts ({sets}), or a sample of them."])


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
        told = [f"{_span(found.loc[kind])} {name}" for kind, name in (
            ("backbones", "as language models"), ("embedders", "as embedders")) if kind in found.index]
        if "embedders" in found.index and pd.notna(found.loc["embedders", "runs"]):
            told.append(f"{_span(found.loc['embedders'], 'runs', 'runs_low', 'runs_high')} between {_RUNS}")
        if told:
            parts.append(f"{METRICS[metric].name} {', '.join(told)}")
    return f"{pair}: {'; '.join(parts)}" if parts else f"{pair}: nothing was measured"


def _span(row: pd.Series, value: str = "value", low: str = "low", high: str = "high") -> str:
    return f"{row[value]:.3f} [{row[low]:.3f}, {row[high]:.3f}]"


def _limits(profile: Profile, overall: list[Mapping[str, Any]]) -> str:
    """Which models, how many runs, and on how many tasks both arms could have shown a difference."""
    base = profile.backbones[0]
    depth = f", its first {profile.recipe.layers} blocks" if profile.recipe.layers else ""
    seeds = max(row["seeds"] for row in overall)
    gate = ", ".join(f"{row['pair']} on {row['competent']} of {row['tasks']} tasks" for row in overall
                     if row["competent"] is not None and pd.notna(row["competent"]))
    return (f"All start from {base.path or base.name}{depth}, with {seeds} training runs an arm. Both arms beat chance "
            f"and their untrained backbones: {gate or 'not asked'}.")
