"""`hrsa ablations`: what the rows of the table of ablations cost, making them one after another, and what is finished.

The jobs are those of the study's graph, so that what a killed run has finished stays; rows are made one at a time, so
that it leaves whole ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hrsa.report.chapters import ABLATIONS, groups, record
from hrsa.report.results import make_ablation_results, read_committed
from hrsa.study import store
from hrsa.study.profile import Profile, Recipe
from hrsa.training import train
from hrsa.verdict.differences import Row, ablation_rows
from hrsa.workflow import graph

_UNTRAINED = "backbones"  # the job that scores and records the backbones


def selected_rows(profile: Profile, names: Sequence[str] = ()) -> list[Row]:
    """The rows by name, all for none named. ValueError: an unknown name, or a profile without rows."""
    rows = ablation_rows(profile)
    known = list(dict.fromkeys(row.name for row in rows))
    if not known or set(names) - set(known):
        raise ValueError(f"expected ablations of both arms of a pair in profile {profile.name}, or its controls, some "
                         f"of {known}, got {sorted(set(names) - set(known)) or 'none'}: correct the names, or add them")
    return [row for row in rows if not names or row.name in names]


def records_of(profile: Profile, row: Row) -> list[str]:
    """The records of the jobs that score and record what a row compares, and of the backbones."""
    return [record(profile, "measure", name) for name, models in groups(profile).items()
            if name == _UNTRAINED or set(models) & set(row.models)]


def finished_models(profile: Profile) -> set[str]:
    """Models that are trained, scored and recorded by the code and settings of now; starts no training."""
    found: set[str] = set()
    now = graph.job_fingerprint(profile, "measure")
    for name, models in groups(profile).items():
        file = store.ROOT / record(profile, "measure", name)
        if file.is_file() and store.read_json(file)["fingerprint"] == now:
            found |= {model for model in models if name == _UNTRAINED or train.is_trained(profile, model)}
    return found


def finished_rows(profile: Profile, rows: Iterable[Row]) -> list[Row]:
    """The rows of which everything is made but the table; see `finished_models`."""
    done = finished_models(profile)
    return [row for row in rows if {*row.models, row.a, row.b} <= done]


class Cost(NamedTuple):
    """What the rows that are not done will take."""

    rows: int
    runs: int  # embedders to train
    steps: float  # of the recipe, that training them amounts to
    seconds_a_step: float | None  # of the recipe; None: measured nowhere

    def __str__(self) -> str:
        minutes = "not known before a first run is measured" if self.seconds_a_step is None else (
            f"about {self.steps * self.seconds_a_step / 60:.0f} minutes of training on one processor, at "
            f"{self.seconds_a_step:.2f} s a step, the fastest measured, and scoring beside it")
        return f"{self.rows} rows to make, {self.runs} embedders to train: {minutes}"


def cost(profile: Profile, rows: Sequence[Row]) -> Cost:
    """What the unfinished ones among these rows will cost."""
    done = finished_models(profile)
    left = [row for row in rows if not {*row.models, row.a, row.b} <= done]
    models = {name for row in left for name in row.models} - done
    steps = sum(_steps(profile, name) for name in models)
    return Cost(len(left), len(models), steps, seconds_a_step(profile, done) or _committed_seconds())


def seconds_a_step(profile: Profile, done: set[str]) -> float | None:
    """Measured wall seconds of one training step of the recipe, of the run that was disturbed least; None where no
    embedder of `done` is trained."""
    trained = sorted(done & {model.id for model in profile.models() if model.seed is not None})
    return min((store.read_json(train.train_embedder(profile, name) / store.PROVENANCE)["seconds"]
                / _steps(profile, name) for name in trained), default=None)


def _steps(profile: Profile, model_id: str) -> float:
    """Training steps of a model, in steps of the recipe: texts and blocks that pass through it."""
    return _work(profile.varied(profile.model(model_id).ablation)) / _work(profile.recipe) * profile.recipe.steps


def _work(recipe: Recipe) -> int:
    return recipe.steps * recipe.batch_size * (2 + recipe.hard_negatives) * (recipe.layers or 1)


def _committed_seconds() -> float | None:
    return read_committed(ABLATIONS.stem)[1]["seconds_a_step"] if ABLATIONS.is_file() else None


def write_finished(profile: Profile) -> tuple[list[str], list[str]]:
    """Write the committed table of all finished rows; names of those and of those that are not done.

    ValueError where no row is finished.
    """
    rows = selected_rows(profile)
    done = finished_rows(profile, rows)
    if not done:
        raise ValueError(f"expected a finished row of profile {profile.name}, got none: run `make ablations`")
    missing = [row.name for row in rows if row not in done]
    make_ablation_results(profile, done, missing, seconds_a_step(profile, finished_models(profile)))
    return [row.name for row in done], missing
