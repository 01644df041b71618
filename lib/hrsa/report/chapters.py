"""The chapters and other jobs of a profile, and the files that they leave."""

from __future__ import annotations

from pathlib import Path

from hrsa.study import store
from hrsa.study.backbone_kinds import has_card
from hrsa.study.profile import Profile

PAIR_CHAPTERS = ("05_correlation", "06_procrustes", "07_cka", "08_knn", "09_probes")
STUDY_CHAPTERS = ("01_backbones", "02_texts", "04_evaluation", "10_dynamics", "11_ablations", "12_family", "13_verdict",
                  "14_choosing", "15_evidence")
_MEASURED = 2  # embedders a job
COMMITTED = "committed"  # what tables of a committed run are called beside those of this one
RESULTS = store.ROOT / "data" / "results"  # of `hrsa results`, a folder for each study
ABLATIONS = RESULTS / "ablations.parquet"  # of `hrsa ablations`, its record beside it
FILMS = RESULTS / "dynamics.parquet"  # of `hrsa results --film`, likewise
FILM_CELLS = "committed-film"  # tag of the cells that show it
ALONG = RESULTS / "along_rl.parquet"  # of `hrsa backbones --along`, its record beside it
OWN_STEPS = "own-steps"  # tag of the cells on a run's own checkpoints
ON_THE_WAY = "along-rl"  # tag of the cells that show it
PRETRAINING, FEWER = "pretraining", "fewer-dimensions"  # tags of cells on a base's own training, on cut embeddings
OWN, KEPT = "own-ablations", "committed-ablations"  # tags of the cells that show those of this run, and those committed


def record(profile: Profile, rule: str, name: str) -> str:
    """Path, relative to the repository, of the record of one job.

    That of the book lies in the HTML folder: there is one report at a time, and it is that profile's.
    """
    if rule == "book":
        return f"jupyter_book/_build/html/{profile.name}-{name}.json"
    return f"data/runs/{profile.name}/records/{rule}/{name}.json"


def page(chapter: str, name: str) -> str:
    """File name of an executed notebook: `07_cka--base-vs-rlvr.ipynb`, or `01_backbones.ipynb` when run once."""
    return f"{chapter}.ipynb" if name == "study" else f"{chapter}--{name}.ipynb"


def book_page(chapter: str) -> str:
    """File name of a chapter's page in the book, which shows all that it was run for."""
    return f"{chapter}.ipynb"


def executed(profile: Profile, chapter: str, name: str) -> str:
    """Path, relative to the repository, of an executed notebook."""
    return f"jupyter_book/executed/{profile.name}/{page(chapter, name)}"


def committed_records() -> list[Path]:
    """The records of the studies whose results are committed, by name: of folders that have verdicts too."""
    return sorted(file for file in RESULTS.glob("*/record.json") if file.with_name("verdicts.parquet").is_file())


def committed_studies() -> list[str]:
    """Names of the studies whose results are committed, ascending."""
    return [file.parent.name for file in committed_records()]


def chapters(profile: Profile) -> tuple[str, ...]:
    """Chapters that run once per profile: that on backbones where some have a card, that on ablations where some train
    both arms of a pair or some are committed, that on committed studies where there are any. None where the profile
    names its chapters: those run once per pair."""
    if profile.chapters is not None:
        return ()
    left_out = set()
    if not any(has_card(language_model) for language_model in profile.backbones):
        left_out.add("01_backbones")
    if ablations_left_out(profile) == {OWN, KEPT}:
        left_out.add("11_ablations")
    if not committed_studies():
        left_out.add("12_family")
    return tuple(chapter for chapter in STUDY_CHAPTERS if chapter not in left_out)


def ablations_left_out(profile: Profile) -> frozenset[str]:
    """Tags of the cells that the chapter on ablations goes without: its own where no ablation trains both arms of a
    pair, the committed ones where there are none."""
    own = any({pair.a, pair.b} <= set(a.backbones) for a in profile.ablations for pair in profile.pairs)
    return frozenset({OWN} if not own else ()) | frozenset({KEPT} if not ABLATIONS.is_file() else ())


def cells_left_out(profile: Profile, chapter: str) -> frozenset[str]:
    """Tags of the cells that a chapter goes without, for want of what they show."""
    if chapter == "11_ablations":
        return ablations_left_out(profile)
    brought = all(b.source == "package" for b in profile.backbones if b.arm == "base")
    lacking = {"01_backbones": {PRETRAINING: brought}, "04_evaluation": {FEWER: not profile.suite.dimensions},
               "10_dynamics": {FILM_CELLS: not FILMS.is_file(),
                               OWN_STEPS: FILMS.is_file() and not profile.recipe.checkpoints},
               "12_family": {ON_THE_WAY: not ALONG.is_file()}}
    return frozenset(tag for tag, lacks in lacking.get(chapter, {}).items() if lacks)


def pair_chapters(profile: Profile) -> tuple[str, ...]:
    """Chapters that run once per pair: all, or those that the profile names. ValueError: an unknown name."""
    wanted = PAIR_CHAPTERS if profile.chapters is None else profile.chapters
    if unknown := set(wanted) - set(PAIR_CHAPTERS):
        raise ValueError(f"expected chapters of profile {profile.name} among {PAIR_CHAPTERS}, got {sorted(unknown)}: "
                         "correct `chapters`")
    return wanted


def jobs(profile: Profile) -> dict[str, list[str]]:
    """All jobs of the study: rule -> names. Without training, mining and study chapters where the profile names its
    chapters."""
    embedders = [m for m in profile.models() if m.seed is not None]
    pairs = [p.name for p in profile.compared()]
    made = {"backbone": [b.name for b in profile.backbones], "measure": list(groups(profile))}
    by_pair = {chapter: list(pairs) for chapter in pair_chapters(profile)}
    if profile.chapters is not None:
        return {**made, **by_pair, "book": ["study"]}
    return {
        "backbone": made["backbone"],
        "mine": ["study"],
        "03_training": [m.id for m in embedders if m.ablation is None],
        "embedder": [m.id for m in embedders if m.ablation],
        "measure": made["measure"],
        **by_pair,
        **{chapter: ["study"] for chapter in (*chapters(profile), "book")},
    }


def groups(profile: Profile) -> dict[str, list[str]]:
    """Models measured by one job, which imports the heavy libraries once: name of the job -> model ids.

    The backbones (with BM25 where there are local tasks), and the embedders of each seed, at most `_MEASURED` together,
    so that no processor waits long for the last: "s0", "s0-2", ...
    """
    found: dict[str, list[str]] = {}
    for model in profile.models():
        of = "backbones" if model.seed is None else f"s{model.seed}"
        while model.seed is not None and len(found.get(of, ())) == _MEASURED:
            of = f"s{model.seed}-{int(of.partition('-')[2] or 1) + 1}"
        found.setdefault(of, []).append(model.id)
    if profile.suite.tasks:
        found["backbones"].append("bm25")
    return found
