"""The levels of HRSA side by side, for one figure."""

from __future__ import annotations

import pandas as pd

from hrsa.report.prose import similarity
from hrsa.study import store
from hrsa.study.profile import Profile

LEVELS = {  # what is shown -> (metric of `compare_pair`, name in its table)
    "dimension-wise correlation": ("correlation", "correlation"),
    "inverse row entropy (basis)": ("procrustes", "inverse_row_entropy"),
    "debiased CKA (global)": ("cka", "debiased_cka"),
    "k-NN overlap (local)": ("knn", "knn"),
}


def overview(profile: Profile, pair: str) -> pd.DataFrame:
    """Matched-layer similarity of a pair at four levels: similarity, models, layer_x, value, low, high, null, floor.

    Rows are those of `hrsa.report.prose.similarity.over_seeds`, on all texts; of the numbers of neighbours the middle one is taken.
    """
    from hrsa.analysis.pairs import compare_pair

    parts = []
    for shown, (metric, name) in LEVELS.items():
        table = store.read_table(compare_pair(profile, pair, metric) / "curve.parquet")
        rows = similarity.over_seeds(table[(table["metric"] == name) & (table["set"] == "all")])
        if metric == "knn":
            rows = rows[rows["k"] == sorted(profile.analysis.ks)[len(profile.analysis.ks) // 2]]
        parts.append(rows.assign(similarity=shown))
    columns = ["similarity", "models", "layer_x", "value", "low", "high", "null", "floor"]
    return pd.concat(parts, ignore_index=True)[columns]


def levels(profile: Profile) -> pd.DataFrame:
    """`overview` of every pair in `profile.pairs`, with the column pair."""
    return pd.concat([overview(profile, pair.name).assign(pair=pair.name) for pair in profile.pairs], ignore_index=True)
