"""What the paper's published numbers allow to be said, and tables of them beside this run's."""

from __future__ import annotations

import pandas as pd

from hrsa.verdict import published

_TEXTS = {"CoT": "maths", "MMLU-Pro": "general"}  # the paper's texts -> the set of probe texts that is closest


def entropy_table() -> pd.DataFrame:
    """Published inverse row entropy: pair, kind, and a column for backbones and embedders on each kind of text."""
    table = published.entropy_cells()
    heads = [f"{models}, {_TEXTS[text]}" for models in ("backbones", "embedders") for text in table["text"].unique()]
    rows = [(pair, kind, *part["backbones"], *part["embedders"])
            for (pair, kind), part in table.groupby(["pair", "kind"], sort=False)]
    return pd.DataFrame(rows, columns=["pair", "kind", *heads])


def overlap_table(curve: pd.DataFrame, pair: str) -> pd.DataFrame:
    """Mean k-NN overlap over layers, this run's and the published: pair, models and a column for each k.

    curve: `curve.parquet` of a pair's k-NN overlap, over seeds.
    """
    mine = curve.pivot_table(index="models", columns="k", values="value").reset_index().assign(pair=f"this run, {pair}")
    rows = [{"pair": f"published, {name}", "models": models, **dict(zip(part["k"], part[models], strict=True))}
            for name, part in published.overlap_cells().groupby("pair", sort=False)
            for models in ("backbones", "embedders")]
    table = pd.concat([mine, pd.DataFrame(rows)])
    table = table[["pair", "models", *sorted(set(table.columns) - {"pair", "models"})]]
    return table.rename(columns=lambda c: c if isinstance(c, str) else f"k = {c}")


def published_scores_said(table: pd.DataFrame) -> str:
    """What `published.reanalyse` allows to be said about the cells of RLVR pairs, over its readings."""
    rlvr = table[table["kind"].str.startswith("RLVR")]
    margin, readings = rlvr["margin"].iloc[0], rlvr["reading"].nunique()
    different = rlvr[rlvr["verdict"].isin(["different", "negligible"])]
    same = rlvr[rlvr["verdict"].isin(["equivalent", "negligible"])]
    by_cell = different.groupby(["pair", "benchmark"]).size()
    always = [f"{pair} on {benchmark}" for (pair, benchmark), n in by_cell.items() if n == readings]
    counts = same.groupby("reading").size().reindex(rlvr["reading"].unique(), fill_value=0)
    cells = len(rlvr) // readings
    span = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.min()}"
    told = f"differ from zero under every reading: {', '.join(always)}" if always else \
        "none differs from zero under every reading"
    return (f"Published, RLVR pairs, {cells} cells, Holm over all cells of a reading: {told}. Within a margin of "
            f"{margin:g} points, equivalence is shown for {span} of {cells} cells, depending on the reading. "
            + ("\"Statistically identical\" is therefore not what the published numbers say: some differences are "
               "real." if always else "No published difference is beyond doubt."))


def realignment_counted(table: pd.DataFrame) -> str:
    """How many RLVR pairs rise in inverse row entropy, from `published.rises_in_entropy`."""
    parts = [f"{row.rise} of {row.pairs} on {row.text} text (sign test for a rise: p = {row.p_rise:.2f})"
             for row in table.itertuples()]
    most = (2 * table["rise"] > table["pairs"]).all()
    return ("Published RLVR pairs whose inverse row entropy rises in contrastive training: " + ", ".join(parts) + ". "
            + ("Most rise." if most else "A general rise of RLVR pairs is not shown by these numbers."))
