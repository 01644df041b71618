"""What the study's graph consists of: its jobs, what each reads, and the hash that makes it run again.

The Snakefile is a thin shell around this module. A job writes one small record,
`data/runs/<profile>/records/<rule>/<name>.json`, when it has succeeded; artefacts and executed notebooks are kept
elsewhere, so that a job that is killed or fails loses neither.
"""

from __future__ import annotations

from collections.abc import Callable

from hrsa import merge
from hrsa.analysis.recordings import record_states
from hrsa.evaluation.evaluate import evaluate_model
from hrsa.models.adapters import merged_folder
from hrsa.models.language_model import MADE, are_adapters, backbone_folder, has_card
from hrsa.models.zoo.make import code_of, make_backbone
from hrsa.study import store
from hrsa.study.code_hash import code_hash, notebook_hash
from hrsa.study.profile import Model, Profile
from hrsa.texts.hard_negatives import mine
from hrsa.training.train import train_embedder

PAIR_CHAPTERS = ("05_correlation", "06_procrustes", "07_cka", "08_knn", "09_probes")
STUDY_CHAPTERS = ("01_backbones", "02_texts", "04_evaluation", "10_dynamics", "11_ablations", "12_verdict", "13_family")
FAMILY = store.ROOT / "data" / "results" / "family" / "record.json"  # of `hrsa.results`
STAGES = {
    "mine": (mine,),
    "embedder": (train_embedder,),
    "measure": (evaluate_model, record_states),
}  # rule -> what does its jobs; see `_stages` for the others that are not chapters
NOT_CHAPTERS = ("backbone", *STAGES, "book")
STAGE_SECTIONS = {
    "backbone": ("zoo", "backbones"),
    "mine": ("suite", "recipe"),
    "03_training": ("recipe",),
    "embedder": ("recipe", "ablations"),
    "measure": ("suite", "analysis", "recipe"),
}


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


def executed(profile: Profile, chapter: str, name: str) -> str:
    """Path, relative to the repository, of an executed notebook."""
    return f"jupyter_book/executed/{profile.name}/{page(chapter, name)}"


def chapters(profile: Profile) -> tuple[str, ...]:
    """Chapters that run once per profile: that on backbones where some have a card, that on ablations where there
    are any, that on the family where its results are committed. None where the profile names its
    chapters: those run once per pair."""
    if profile.chapters is not None:
        return ()
    left_out = set()
    if not any(has_card(language_model) for language_model in profile.backbones):
        left_out.add("01_backbones")
    if not profile.ablations:
        left_out.add("11_ablations")
    if not FAMILY.is_file():
        left_out.add("13_family")
    return tuple(chapter for chapter in STUDY_CHAPTERS if chapter not in left_out)


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

    The backbones (with BM25 where there are local tasks), and the embedders of each seed.
    """
    found: dict[str, list[str]] = {}
    for model in profile.models():
        found.setdefault("backbones" if model.seed is None else f"s{model.seed}", []).append(model.id)
    if profile.suite.tasks:
        found["backbones"].append("bm25")
    return found


def _made_by(model: Model) -> tuple[str, str]:
    """Rule and name of the job that makes a model."""
    if model.seed is None:
        return "backbone", model.backbone
    return ("embedder" if model.ablation else "03_training"), model.id


def needs(profile: Profile, rule: str, name: str) -> list[tuple[str, str]]:
    """Jobs, as (rule, name), that must have succeeded before this one."""
    todo = jobs(profile)
    if rule not in todo or name not in todo[rule]:
        raise ValueError(
            f"expected a job of profile {profile.name}, got {rule} {name}: choose a rule of {sorted(todo)} "
            f"and, for {rule}, a name of {todo.get(rule, [])}"
        )
    if rule == "mine":
        return []
    if rule == "book":
        return [(other, name) for other, names in todo.items() if other != "book" for name in names]
    if rule == "backbone":
        other = profile.compared_with(name)
        return [("backbone", other)] if other else []
    if rule in ("03_training", "embedder"):
        return [("backbone", profile.model(name).backbone), ("mine", "study")]
    if rule == "measure":
        return [_made_by(profile.model(id)) for id in groups(profile)[name] if id != "bm25"]
    if rule in PAIR_CHAPTERS:
        return [("measure", group) for group in todo["measure"]]
    return _study_needs(profile, rule, todo)


def _study_needs(profile: Profile, chapter: str, todo: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Jobs that a chapter which runs once per profile needs."""
    every = {
        "01_backbones": ("backbone",),
        "02_texts": ("mine",),
        "04_evaluation": ("measure",),
        "10_dynamics": ("measure",),
        "11_ablations": ("measure",),
        "12_verdict": ("04_evaluation", "10_dynamics", *PAIR_CHAPTERS),
        "13_family": ("04_evaluation", *PAIR_CHAPTERS),
    }[chapter]
    return [(rule, name) for rule in every for name in todo[rule]]


def _stages(profile: Profile, rule: str) -> tuple[Callable, ...]:
    """The functions that do the jobs of a rule: of backbones, those that the profile's own need."""
    if rule == "book":
        from hrsa.report import book  # with Sphinx and the notebook reader, which other jobs have no use for

        return book.build, book.PlotlyRenderer, book.setup
    if rule != "backbone":
        return STAGES[rule]
    made = {function for b in profile.backbones if b.source in MADE for function in code_of(b)}
    merged = (merged_folder,) if any(map(are_adapters, profile.backbones)) else ()
    return (backbone_folder, *merged, *sorted(made, key=lambda function: function.__name__))


def fingerprint(profile: Profile, rule: str) -> str:
    """Hash of configuration and code that a rule's jobs depend on: when it changes, they run again."""
    sections = STAGE_SECTIONS.get(rule, tuple(type(profile).model_fields))
    settings = {name: profile.model_dump(mode="json")[name] for name in (*sections, "threads")}
    if rule in NOT_CHAPTERS:
        return store.key(settings=settings, code=code_hash(*_stages(profile, rule)))
    received = [store.file_hash(file) for file in merge.received(profile)] if rule == "12_verdict" else []
    before = (make_backbone, merged_folder, mine, train_embedder, evaluate_model, record_states)
    if rule == "03_training":
        before = tuple(stage for stage in before if stage is not train_embedder)
    return store.key(settings=settings, code=notebook_hash(store.NOTEBOOKS / f"{rule}.py", before), received=received)


def parameters(profile: Profile, chapter: str, name: str) -> dict[str, str | int]:
    """Values of a chapter's `parameters` cell for one of its jobs."""
    values: dict[str, str | int] = {"profile": profile.name}
    if chapter in PAIR_CHAPTERS:
        values["pair"] = name
    if chapter == "03_training":
        model = profile.model(name)
        values |= {"backbone": model.backbone, "seed": model.seed}
    return values


def run_stage(profile: Profile, rule: str, name: str) -> dict[str, str]:
    """Do one job that is not a notebook; return the names of the artefacts it made."""
    if rule == "book":
        from hrsa.report import book

        return {"html": str(book.build(profile)).removeprefix(f"{store.ROOT}/")}
    from hrsa.analysis import recordings
    from hrsa.evaluation import evaluate
    from hrsa.models import language_model
    from hrsa.texts import hard_negatives
    from hrsa.training import train

    if rule == "backbone":
        return {"backbone": str(language_model.backbone_folder(profile, name)).removeprefix(f"{store.ROOT}/")}
    if rule == "mine":
        return {"triples": hard_negatives.mine(profile).name}
    if rule == "embedder":
        return {"embedder": train.train_embedder(profile, name).name}
    if rule == "measure":
        made = {}
        for id in groups(profile)[name]:
            if profile.chapters is None:
                made[f"evaluation of {id}"] = evaluate.evaluate_model(profile, id).name
            if id != "bm25":
                made[f"states of {id}"] = recordings.record_states(profile, id).name
                for step in recordings.checkpoints_of(profile, id):
                    made[f"states of {id}, step {step}"] = recordings.record_states(profile, id, step).name
        return made
    raise ValueError(f"expected one of the stages {NOT_CHAPTERS}, got {rule!r}")


