"""What the study's graph consists of: its jobs, what each reads, and the hash that makes it run again.

The Snakefile is a thin shell around this module. A job writes one small record,
`data/runs/<profile>/records/<rule>/<name>.json`, when it has succeeded; artefacts and executed notebooks are kept
elsewhere, so that a job that is killed or fails loses neither.
"""

from __future__ import annotations

from collections.abc import Callable

from hrsa.report.chapters import ABLATIONS, ALONG, FILMS, PAIR_CHAPTERS, committed_records, groups, jobs
from hrsa.study import store
from hrsa.study.backbone_kinds import are_adapters, is_derived, is_measured
from hrsa.study.code_hash import code_hash, notebook_hash
from hrsa.study.profile import Model, Profile

# Functions are named and not imported: what they import, each job has a use for a part of.
TRIPLES, EMBEDDER = "hrsa.texts.hard_negatives.make_triples", "hrsa.training.train.train_embedder"
MEASURES = ("hrsa.evaluation.evaluate.evaluate_model", "hrsa.analysis.recordings.make_recording")
FOLDERS = {name: f"hrsa.models.resolve.make_{name}" for name in ("backbone_folder", "merged", "derived")}
STAGES = {"mine": (TRIPLES,), "embedder": (EMBEDDER,), "measure": MEASURES}  # rule -> what does its jobs; see `_stages`
# for the others that are not chapters
NOT_CHAPTERS = ("backbone", *STAGES, "book")
STAGE_SECTIONS = {
    "backbone": ("zoo", "backbones"),
    "mine": ("suite", "recipe"),
    "03_training": ("recipe", "processes"),
    "embedder": ("recipe", "ablations", "processes"),
    "measure": ("suite", "analysis", "recipe"),
}


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
        other = profile.compared_with(name) or profile.backbone(name).start
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
        "13_verdict": ("04_evaluation", "10_dynamics", *PAIR_CHAPTERS),
        "14_choosing": ("04_evaluation",),
        "15_evidence": ("04_evaluation", "10_dynamics", *PAIR_CHAPTERS),
        "12_family": ("04_evaluation", *PAIR_CHAPTERS),
    }[chapter]
    return [(rule, name) for rule in every for name in todo[rule]]


def outline(profile: Profile) -> str:
    """The graph in words: a line per rule, how many jobs it has and which rules they wait for."""
    lines = []
    for rule, names in jobs(profile).items():
        waits = sorted({needed for name in names for needed, _ in needs(profile, rule, name)})
        waits = ["everything"] if rule == "book" else waits
        lines.append(f"  {rule:15s} x {len(names):3d}  <- {', '.join(waits)}".rstrip())
    return "\n".join(lines)


def _stages(profile: Profile, rule: str) -> tuple[Callable | str, ...]:
    """The functions that do the jobs of a rule: of backbones, those that the profile's own need."""
    if rule == "book":
        return tuple(f"hrsa.report.book.{name}" for name in ("report.build", "extension.PlotlyRenderer",
                                                             "extension.setup"))
    if rule != "backbone":
        return STAGES[rule]
    from hrsa.models.zoo.make import code_of

    made = {function for b in profile.backbones if is_measured(b) for function in code_of(profile, b)}
    merged = (FOLDERS["merged"],) if any(map(are_adapters, profile.backbones)) else ()
    merged += (FOLDERS["derived"],) if any(map(is_derived, profile.backbones)) else ()
    return (FOLDERS["backbone_folder"], *merged, *sorted(made, key=lambda function: function.__name__))


def job_fingerprint(profile: Profile, rule: str) -> str:
    """Hash of configuration and code that a rule's jobs depend on: when it changes, they run again."""
    sections = STAGE_SECTIONS.get(rule, tuple(type(profile).model_fields))
    stated = profile.model_dump(mode="json")
    settings = {name: stated[name] for name in (*sections, "threads") if name in stated}
    if rule in NOT_CHAPTERS:
        return store.key(settings=settings, code=code_hash(*_stages(profile, rule)))
    files = list(committed_records()) if rule == "12_family" else []
    if rule in ("04_evaluation", "12_family", "13_verdict", "14_choosing", "15_evidence"):
        from hrsa.verdict import evidence

        files = [*evidence.received(profile), *files]
    shown = {"10_dynamics": FILMS, "11_ablations": ABLATIONS, "12_family": ALONG}.get(rule)
    files += [shown] if shown and shown.is_file() else []
    received = [store.file_hash(file) for file in files]
    before = {"hrsa.models.zoo.make.make_backbone", FOLDERS["merged"], FOLDERS["derived"], TRIPLES, EMBEDDER, *MEASURES}
    if rule == "03_training":
        before.remove(EMBEDDER)
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


