"""What the backbones of a profile are before contrastive training: measured, evaluated, compared, in committed tables.

    hrsa untrained PROFILE            all its backbones
    hrsa untrained PROFILE base sft   these, and the pairs among them

writes `data/results/<profile>-untrained/`. For models whose training takes a GPU, or a night, this is the part that a
CPU has time for. What is there already is not made again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from hrsa.analysis.recordings import make_recording
from hrsa.evaluation.evaluate import make_scores
from hrsa.report.foreign import as_markdown
from hrsa.report.prose import backbones
from hrsa.report.prose.pages import filled_page
from hrsa.report.results import RESULTS, hours, make_levels
from hrsa.study import store
from hrsa.study.profile import Profile

log = logging.getLogger(__name__)


def selected_backbones(profile: Profile, names: list[str]) -> Profile:
    """The profile with these backbones alone (all when none is named), the pairs among them, and no embedders.

    Raises ValueError for an unknown name, and for an arm without what it starts from.
    """
    known = [backbone.name for backbone in profile.backbones]
    names = names or known
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"expected backbones of profile {profile.name}, {known}, got {unknown}")
    return Profile.model_validate(profile.model_dump() | {
        "seeds": (), "ablations": (), "controls": (),
        "backbones": [profile.backbone(name) for name in known if name in names],
        "pairs": [pair for pair in profile.pairs if {pair.a, pair.b} <= set(names)]})


def make_untrained_results(profile: Profile, settings: str) -> Path:
    """Write scores [model, task, family, metric, value], levels (`hrsa.report.results.make_levels`) and models
    (`hrsa.report.prose.backbones.card_table`) as parquet, `README.md` to read and `record.json`; returns the folder.

    `settings` is the profile's file as the page names it.
    """
    names = [backbone.name for backbone in profile.backbones]
    tables: dict[str, pd.DataFrame] = {"models": backbones.card_table(backbones.make_cards(profile))}
    tables["scores"], _ = make_scores(profile, names)
    for name in names:
        make_recording(profile, name)
    if profile.pairs:
        tables["levels"] = make_levels(profile)
    record = store.provenance(profile=profile.model_dump(mode="json"), hours=hours(profile))
    target = RESULTS / f"{profile.name}-untrained"
    with store.atomic(target) as folder:
        folder.mkdir(parents=True)
        for name, table in tables.items():
            store.write_table(folder / f"{name}.parquet", table)
        store.write_json(folder / "record.json", record | {
            "sha256": {file.stem: store.file_hash(file) for file in sorted(folder.glob("*.parquet"))}})
        (folder / "README.md").write_text(_page(profile, settings, tables, record), encoding="utf8")
    return target


def _page(profile: Profile, settings: str, tables: dict[str, pd.DataFrame], record: dict[str, Any]) -> str:
    """The tables in Markdown."""
    scores = tables["scores"].pivot_table("value", ["task", "family", "metric"], "model", sort=False)
    compared = "No pair of these models is compared."
    if "levels" in tables:
        compared = _table(by_pair(tables["levels"]))
    return filled_page(
        "untrained.md", title=as_markdown(profile.title), profile=settings,
        machine=as_markdown(record["machine"]), written=record["written"], commit=record["commit"][:12],
        hours=record["hours"], pooling=profile.recipe.pooling, origin=backbones.where_backbones_come_from(profile),
        models=_table(tables["models"]), findings=backbones.findings(backbones.make_cards(profile)),
        scores=_table(scores[[b.name for b in profile.backbones]].reset_index()), levels=compared)


def by_pair(found: pd.DataFrame) -> pd.DataFrame:
    """One row per pair and similarity: mean, lowest and highest over the blocks, mean of the null."""
    blocks = found[~found["layer_x"].isin(["0"])]
    return blocks.groupby(["pair", "similarity"], sort=False).agg(
        mean=("value", "mean"), lowest=("value", "min"), highest=("value", "max"), null=("null", "mean")).reset_index()


def _table(frame: pd.DataFrame) -> str:
    shown = frame.astype(object).where(frame.notna(), None)
    return shown.to_markdown(index=False, floatfmt=".3f", missingval="")
