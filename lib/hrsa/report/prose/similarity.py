"""From a table of similarities to sentences: what the intervals, nulls and yardsticks allow to be said.

Every sentence is a test of the data. Where intervals overlap it says "inconclusive", and never that two things are
equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrsa.analysis.behaviour import by_tokens
from hrsa.analysis.dynamics import BOTH_ARMS, ITSELF, ORDERS_OF_BOTH, ORDERS_OF_ONE
from hrsa.analysis.explore.neighbourhoods import NeighbourTable
from hrsa.analysis.intervals import decimals_shown, has_room, only_row, order
from hrsa.evaluation import foretelling
from hrsa.report.foreign import as_markdown
from hrsa.report.plots.choices import Block
from hrsa.report.plots.tables import Table, table
from hrsa.report.prose.scores import FORETOLD, counted
from hrsa.similarity.metrics import METRICS
from hrsa.study import store
from hrsa.study.profile import Pair, Profile
from hrsa.verdict.equivalence import holm


def _number(row: pd.Series) -> str:
    return value_said(*row[["value", "low", "high"]])


def value_said(value: float, low: float, high: float) -> str:
    """A value with its interval, with enough decimals to tell it from 1; says where there is none."""
    if np.isnan(value):
        return "not measured"
    digits = decimals_shown(value, low, high)
    bounds = f"[{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite([low, high]).all() else "(no interval)"
    return f"{value:.{digits}f} {bounds}"


def _plain(value: float) -> str:
    return f"{value:.{decimals_shown(value)}f}"


def _sign(row: pd.Series) -> int:
    """1 where larger values of the row's metric mean more alike models, -1 where smaller ones do."""
    return METRICS[row["metric"]].sign


def _beside(row: pd.Series, yardstick: str) -> int:
    """1 where a similarity lies on the more alike side of a number in its row, -1 on the other, 0 where neither."""
    return order(row["low"], row["high"], row[yardstick], row[yardstick]) * _sign(row)


def against_null(row: pd.Series) -> str:
    """Whether a similarity differs from that of permuted rows: a clause."""
    if not np.isfinite(row["null"]):
        return "with no permuted baseline"
    side = _beside(row, "null")
    words = {1: "more alike than", -1: "less alike than", 0: "inconclusive against"}[side]
    return f"{words} permuted rows ({_plain(row['null'])})"


def against_runs(row: pd.Series) -> str:
    """Whether two arms differ more than two runs of one recipe, both with another order of data: a clause."""
    if not np.isfinite(row["runs"]) or not np.isfinite(row["crossed"]):
        return "there is one order of the data, so that no two runs of one recipe can be compared"
    crossed, runs = (row[[name, f"{name}_low", f"{name}_high"]] for name in ("crossed", "runs"))
    side = order(crossed.iloc[1], crossed.iloc[2], runs.iloc[1], runs.iloc[2]) * _sign(row)
    recipe = f"two runs of one recipe ({value_said(*runs)})"
    said = {1: f"more alike than {recipe}",
            -1: f"less alike than {recipe}: the arms differ beyond training noise",
            0: f"inconclusive against {recipe}: no difference beyond training noise was shown"}[side]
    return f"with another order of the data as well, {value_said(*crossed)}, {said}"


def against_ceiling(row: pd.Series) -> str:
    """Whether two models differ by more than rounding does: a clause, empty where no ceiling was measured."""
    if not np.isfinite(row.get("ceiling", np.nan)):
        return ""
    side = _beside(row, "ceiling")
    itself = f"one model in float32 and bf16 ({_plain(row['ceiling'])})"
    return {1: f", more alike than {itself}", -1: f", less alike than {itself}",
            0: f", not told apart from {itself}"}[side]


def closer_after_training(backbones: pd.Series, embedders: pd.Series) -> str:
    """Whether contrastive training brought the two models closer: a clause."""
    side = order(embedders["low"], embedders["high"], backbones["low"], backbones["high"]) * _sign(embedders)
    if side != 1 and not _room(backbones, embedders):
        return ("no rise could be seen, since the backbones are as alike as can be told" + (
            "; the embedders are less alike" if side < 0 else ""))
    return {1: "the embedders are more alike than their backbones (realignment)",
            -1: "the embedders are less alike than their backbones (no realignment, but drift)",
            0: f"whether training brought the models closer is inconclusive ({_undecided(backbones, embedders)})"}[side]


def _undecided(*rows: pd.Series) -> str:
    known = all(np.isfinite(row[["low", "high"]].astype(float)).all() for row in rows)
    return "the intervals overlap" if known else "without intervals"


def _room(backbones: pd.Series, embedders: pd.Series) -> bool:
    """`has_room` of a row of backbones, with the yardsticks of its row of embedders where there are any."""
    width = abs(embedders.get("runs_high", np.nan) - embedders.get("runs_low", np.nan))
    return has_room(METRICS[backbones["metric"]], backbones["low"], backbones["high"],
                    backbones.get("ceiling", np.nan), width)


def similarity_sentence(table: pd.DataFrame, name: str, **where: Any) -> str:
    """What was found for one similarity at one place, from a table of `over_seeds`.

    `name` is how the prose calls it, `where` picks the rows (layer_x, k, set ...). A clause about backbones, one about
    embedders, one about realignment; backbones alone where the pair has no embedders. Chance and rounding are named
    where the models do not lie between them.
    """
    backbones = only_row(table, models="backbones", **where)
    before = f"{name}: the backbones score {_number(backbones)}{_outside(backbones)}"
    if "embedders" not in set(table["models"]):
        return before + "."
    embedders = only_row(table, models="embedders", **where)
    return (f"{before}; the embedders score {_number(embedders)}{_outside(embedders)}, and {against_runs(embedders)}. "
            f"So {closer_after_training(backbones, embedders)}.")


def _outside(row: pd.Series) -> str:
    """Clauses on permuted rows and on rounding, for models that are not clearly between the two."""
    usual = np.isfinite(row["null"]) and _beside(row, "null") == 1
    apart = not np.isfinite(row.get("ceiling", np.nan)) or _beside(row, "ceiling") == -1
    return ("" if usual else f", {against_null(row)}") + ("" if apart else against_ceiling(row))


def by_layer(table: pd.DataFrame, **where: Any) -> str:
    """At how many layers the embedders are more or less alike than the backbones: a sentence.

    Of a pair without embedders: at how many layers the backbones are more alike than permuted rows.
    """
    rows = table
    for name, value in where.items():
        rows = rows[rows[name] == value]
    arms = [rows[rows["models"] == models].set_index("layer_x") for models in ("backbones", "embedders")]
    if arms[1].empty:
        sides = [_beside(b, "null") for _, b in arms[0].iterrows()]
        return (f"Of {len(sides)} states over depth, the models are more alike than permuted rows at {sides.count(1)}, "
                f"less alike at {sides.count(-1)}, and it is inconclusive at {sides.count(0)}.")
    sides = [order(e["low"], e["high"], b["low"], b["high"]) * _sign(b)
             for (_, e), (_, b) in zip(arms[1].iterrows(), arms[0].loc[arms[1].index].iterrows(), strict=True)]
    rows = zip(sides, arms[1].iterrows(), arms[0].loc[arms[1].index].iterrows(), strict=True)
    full = sum(side != 1 and not _room(b, e) for side, (_, e), (_, b) in rows)
    return (f"Of {len(sides)} states over depth, the embedders are more alike than the backbones at {sides.count(1)}, "
            f"less alike at {sides.count(-1)}, and it is inconclusive at {sides.count(0)}."
            + (f" At {full} of them no rise could be seen." if full else ""))


def transfer(table: pd.DataFrame, task: str, split: str = "test") -> str:
    """What a probe loses when it is carried over to the other model, from `probes.parquet` over seeds: sentences."""
    rows = table[(table["task"] == task) & (table["split"] == split) & (table["quantity"] == "delta")]
    words = {1: "loses score", -1: "gains score", 0: "shows no loss beyond its interval (inconclusive)"}
    parts = [f"{row['models']} on {as_markdown(row['set'])} texts: own minus cross {_number(row)}"
             + (f", the probe {words[order(row['low'], row['high'], 0.0, 0.0)]}" if np.isfinite(row["low"]) else "")
             for _, row in rows.iterrows()]
    return f"{task.capitalize()} ({split} split). " + "; ".join(parts) + "."


def over_training(table: pd.DataFrame, name: str) -> str:
    """Whether and since which step two arms differ from their start: a sentence.

    `table` holds one similarity of one pair over `step`, with low and high, in a table of `hrsa.analysis.dynamics`.
    """
    rows = table.sort_values("step").reset_index(drop=True)
    first, last = rows.iloc[0], rows.iloc[-1]
    side = order(last["low"], last["high"], first["low"], first["high"]) * _sign(first)
    path = f"{name} goes from {_number(first)} to {_number(last)} at step {last['step']}"
    if side == 0:
        return f"{path}: inconclusive, {_undecided(first, last)}."
    apart = [order(r["low"], r["high"], first["low"], first["high"]) * _sign(first) == side
             for _, r in rows.iterrows()]
    since = next(i for i in range(len(apart)) if all(apart[i:]))
    words = {1: "more alike (realignment)", -1: "less alike"}[side]
    return f"{path}: the arms became {words}, told apart from the start since step {rows['step'][since]}."


def beside_runs(table: pd.DataFrame, name: str) -> str:
    """How alike two arms are at the last step, beside two runs of one arm and beside an arm and itself before: a
    sentence.

    `table` holds one similarity of one pair over `step` and `models`, with low and high, seeds joined, as
    `analysis.dynamics` names them.
    """
    last = table[table["step"] == table["step"].max()]
    arms, itself = (only_row(last, models=models) for models in (BOTH_ARMS, ITSELF))
    moved = {1: "less far than", -1: "further than", 0: "by what is not told apart from how far"}[
        _sign(arms) * order(itself["low"], itself["high"], arms["low"], arms["high"])]
    said = [f"{name}: the arms end at {_number(arms)}{_path(table)}"]
    if ORDERS_OF_ONE in set(last["models"]):
        crossed, runs = (only_row(last, models=models) for models in (ORDERS_OF_BOTH, ORDERS_OF_ONE))
        side = _sign(arms) * order(crossed["low"], crossed["high"], runs["low"], runs["high"])
        met = {1: "closer than", -1: "less alike than", 0: "not told apart from"}[side]
        said.append(f"on two orders of the data at {_number(crossed)}, {met} two runs of one arm, {_number(runs)}")
    said.append(f"training moved an arm {moved} the arms are apart, to {_number(itself)} with itself before")
    return "; ".join(said) + "."


def meeting(table: pd.DataFrame, name: str) -> str:
    """From which step on two arms are as alike as two runs of one arm, and whether ever more so: a sentence.

    `table` as in `beside_runs`, with two orders of the data. A step counts where intervals overlap or the arms lie
    above; that they ever lay above takes an interval clear of the other.
    """
    steps, sides, values = [], [], []
    for step, rows in table[table["step"] > 0].groupby("step"):
        crossed, runs = (only_row(rows, models=models) for models in (ORDERS_OF_BOTH, ORDERS_OF_ONE))
        steps.append(step)
        sides.append(_sign(crossed) * order(crossed["low"], crossed["high"], runs["low"], runs["high"]))
        values.append((_number(crossed), _number(runs)))
    met = next((i for i in range(len(steps)) if min(sides[i:]) >= 0), None)
    closer = [str(step) for step, side in zip(steps, sides, strict=True) if side > 0]
    if met is None:
        said = (f"at the last step the arms, on two orders of the data, are less alike than two runs of one arm "
                f"({values[-1][0]} against {values[-1][1]}): they have not met")
    elif met == 0:
        said = (f"from the first kept step ({steps[0]}) on the arms, on two orders of the data, are not told apart "
                f"from two runs of one arm, or closer: {values[0][0]} against {values[0][1]} there")
    else:
        said = (f"the arms have met by step {steps[met]} ({values[met][0]} on two orders of the data, two runs of one "
                f"arm {values[met][1]}); at step {steps[met - 1]} they were less alike ({values[met - 1][0]} against "
                f"{values[met - 1][1]})")
    where = f"{len(closer)} of {len(steps)} kept steps ({', '.join(closer)})" if closer else "no kept step"
    return f"{name}: {said}. Closer than two runs of one arm at {where}."


def only_falls(table: pd.DataFrame, name: str) -> str:
    """Whether two arms only grow apart over training, and whether an arm does so against itself before: a sentence.

    `table` as in `beside_runs`. What an arm shows against itself as well is not special to a pair.
    """
    arms = table[table["models"] == BOTH_ARMS].sort_values("step")
    itself = table[table["models"] == ITSELF].sort_values("step")
    said, words = [], {1: "higher", -1: "lower", 0: "not told apart"}
    for rows, who in ((arms, "the two arms"), (itself, "an arm and itself before")):
        moves = np.diff(rows["value"]) * _sign(rows.iloc[0])
        first, last = rows.iloc[0], rows.iloc[-1]
        if not len(moves):
            said.append(f"of {who} it is known at step {first['step']} alone, {_number(first)}")
            continue
        ends = _sign(first) * order(last["low"], last["high"], first["low"], first["high"])
        path = ("only falls" if (moves < 0).all() else "only rises" if (moves > 0).all() else
                f"falls at {(moves < 0).sum()} of {len(moves)} steps and rises at {(moves > 0).sum()}")
        said.append(f"of {who} it {path}, from {_number(first)} at step {first['step']} to {_number(last)}, "
                    f"{words[ends]} at the end")
    return f"{name}: {'; '.join(said)}."


def _path(table: pd.DataFrame) -> str:
    """Whether the arms only grow apart, or only nearer, from step to step."""
    rows = table[table["models"] == BOTH_ARMS].sort_values("step")
    moves = np.diff(rows["value"]) * _sign(rows.iloc[0])
    if len(moves) < 2 or not ((moves > 0).all() or (moves < 0).all()):
        return ""
    return f", {'nearer' if moves[0] > 0 else 'farther'} from step to step"


def between_sets(table: pd.DataFrame, first: str, second: str, name: str = METRICS["inverse_row_entropy"].name) -> str:
    """How two sets of texts differ in one similarity at one layer, for backbones and embedders: a sentence."""
    parts = []
    for models in table["models"].unique():
        a, b = (only_row(table, models=models, set=which) for which in (first, second))
        words = {1: "higher", -1: "lower", 0: "not told apart (inconclusive)"}
        parts.append(f"{models}: {_number(a)} on {first} against {_number(b)} on {second}, "
                     f"{words[order(a['low'], a['high'], b['low'], b['high'])]}")
    return f"{name.capitalize()} by set of texts. " + "; ".join(parts) + "."


def why_maxima() -> str:
    """Why the cells of a heat map are held against the largest cells of maps of permuted rows."""
    return "A map has many cells, so each is held against the largest cell of maps of permuted rows."


def above_maximum(heat: pd.DataFrame, maxima: pd.DataFrame, metric: str) -> str:
    """How many cells of a heat map exceed every cell of the maps of permuted rows: a sentence."""
    parts = []
    for models, rows in heat[heat["metric"] == metric].groupby("models", sort=False):
        null = maxima[(maxima["metric"] == metric) & (maxima["models"] == models)]["value"]
        parts.append(f"{models}: {int((rows['value'] > null.max()).sum())} of {len(rows)} cells lie above "
                     f"{null.max():.3f}, the largest cell of {counted(len(null), 'map')} of permuted rows")
    return "; ".join(parts).capitalize() + "."


def foretold_where(profile: Profile, per_query: pd.DataFrame) -> pd.DataFrame:
    """What local change adds by layer and kind of token, `by_tokens.foretold_by_tokens`, with the columns pair, of,
    kind and holm (p-values corrected over all layers and kinds of a pair and outcome); empty where too few queries of
    local retrieval tasks were scored."""
    rows = []
    for pair in profile.pairs if foretelling.has_local_retrieval(profile) else ():
        for outcome in foretelling.DIFFERING:
            try:
                found = by_tokens.foretold_by_tokens(profile, pair.name, per_query, outcome)
            except ValueError:  # as `foretold_by_pair` says
                continue
            asked = found["p"].notna()
            found.loc[asked, "holm"] = holm(found.loc[asked, "p"])
            rows.append(found.assign(pair=pair.name, of=FORETOLD[outcome],
                                     kind=found["side"] + ", " + found["part"]))
    columns = ["pair", "of", "layer", "kind", "share", "low", "high", "p", "holm", "queries"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def foretold_where_said(table: pd.DataFrame, alpha: float) -> str:
    """Markdown list: at which layers and by which tokens similarity says of scores what scores do not, from
    `foretold_where`; shown where the corrected p-value is below `alpha`."""
    if table.empty:
        return "Too few queries were scored to ask this by layer and kind of token."
    lines = []
    for (pair, of), part in table.groupby(["pair", "of"], sort=False):
        asked = part.dropna(subset=["share"])
        shown = asked[(asked["holm"] < alpha) & (asked["share"] > 0)].sort_values("share", ascending=False)
        places = "layer and kind" if len(asked) == 1 else "layers and kinds"
        text = f"- {pair}, {of}: of {len(asked)} {places} of token "
        if len(shown):
            best, layers = shown.iloc[0], list(shown["layer"].drop_duplicates())
            text += (f"{len(shown)} say what scores do not, most of all layer {best['layer']} by {best['kind']}: "
                     f"{100 * best['share']:+.1f} points [{100 * best['low']:+.1f}, {100 * best['high']:+.1f}] of the "
                     f"variance within tasks, p = {best['holm']:.2g} after Holm's correction. "
                     f"They are of layer{'s' * (len(layers) > 1)} {', '.join(layers)} and of "
                     f"{'; '.join(shown['kind'].drop_duplicates())}.")
        elif (asked["share"] > 0).any():
            least = asked.loc[asked.loc[asked["share"] > 0, "p"].idxmin()]
            text += (f"none says what scores do not, after Holm's correction; nearest to it is layer {least['layer']} "
                     f"by {least['kind']}: {100 * least['share']:+.1f} points [{100 * least['low']:+.1f}, "
                     f"{100 * least['high']:+.1f}], p = {least['p']:.2g} before it.")
        else:
            text += "none adds anything to what scores foretell." if len(asked) else "none could be asked."
        lines.append(text)
    kinds = table.groupby("kind")["share"].apply(lambda shares: shares.notna().any())
    if silent := sorted(kinds.index[~kinds]):
        lines.append(f"\nNothing is there to foretell from {'; '.join(silent)}: alike for all queries of a task, or "
                     "rare.")
    return "\n".join(lines)


def changed_blocks(folder: Path, pair: Pair, unit: str) -> list[Block]:
    """The most changed neighbourhoods of a pair by models and state, for `plots.choices`; `folder`: of
    `neighbourhoods.make_changed_neighbours`, `unit`: what its rows are."""
    changed = store.read_table(folder / NeighbourTable.CHANGED)
    groups = changed.groupby(["models", "layer_x"], sort=False)
    return [Block(models, state, f"{models}, state {state}: mean overlap {part['mean'].iloc[0]:.3f} at k = "
                  f"{part['k'].iloc[0]}", changed_tables(part, pair, unit)) for (models, state), part in groups]


def changed_tables(changed: pd.DataFrame, pair: Pair, unit: str) -> tuple[Table, ...]:
    """The rows and the texts of one `neighbourhoods.changed_neighbours` as tables: one of each, where there are any."""
    names = {"passage": unit, "only_a": f"near it in {pair.a} alone", "only_b": f"near it in {pair.b} alone"}
    kinds = {"row": (["passage", "overlap", "only_a", "only_b"], f"{unit}s"), "text": (["passage", "overlap"], "texts")}
    return tuple(table(part[columns].rename(columns=names | ({"passage": "text"} if kind == "text" else {})),
                       f"The {what} whose neighbours changed most")
                 for kind, (columns, what) in kinds.items() if len(part := changed[changed["kind"] == kind]))
