"""Evaluation: mteb on the local suite and on benchmarks by name, with a score for every query.

One stage per model: `evaluate_model` runs all tasks of a profile and keeps mteb's own JSON, the run files and two
tidy tables. BM25 runs as model `bm25` on the retrieval tasks; backbones as they came are ordinary models.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Profile
from hrsa.study.progress import progress
from hrsa.study.runtime import quiet

LEXICAL = "bm25"  # model id of the lexical baseline
TEXTS_PER_PASS = 32  # texts per forward pass; sentence-transformers sorts them by length first
SCORE_COLUMNS = ["model", "task", "family", "metric", "value"]
DIMENSION_COLUMNS = [*SCORE_COLUMNS, "dimensions"]
QUERY_COLUMNS = ["model", "task", "query", "value"]
_SCORES, _PER_QUERY = "scores.parquet", "per_query.parquet"  # files of an evaluation
_DIMENSIONS = "dimensions.parquet"  # of an evaluation where `suite.dimensions` names some
_RESULTS, _PREDICTIONS = "results", "predictions"  # its folders: mteb's JSON, run files
TASK_LOGGERS = ("mteb", "datasets", "sentence_transformers", "bm25s")  # libraries that log while tasks run


def run_task(model: Any, task: Any, work: Path) -> tuple[float, dict[str, float]]:
    """Score one mteb model on one mteb task: (headline score, per-item scores), see `hrsa.evaluation.item_scores`.

    Leaves mteb's JSON under `work/results/` (where `mteb.ResultCache(work)` reads it) and the run file under
    `work/predictions/`. Raises RuntimeError naming the task when anything fails.
    """
    import mteb

    from hrsa.evaluation.item_scores import per_item_scores, recording

    task, scored = recording(task)
    predictions = work / _PREDICTIONS
    (predictions / task.prediction_file_name).unlink(missing_ok=True)  # mteb would add to that of a killed run
    settings = {"batch_size": TEXTS_PER_PASS, "show_progress_bar": False}
    try:
        preloaded = task.data_loaded
        task.load_data()
        found = mteb.evaluate(model, task, co2_tracker=False, cache=None, encode_kwargs=settings,
                              prediction_folder=predictions, show_progress_bar=False)
        if found.exceptions:
            raise RuntimeError(found.exceptions[0].exception)
        result = found.task_results[0]
        per_item = per_item_scores(task, result, predictions / task.prediction_file_name, scored)
    except Exception as error:
        raise RuntimeError(f"evaluation of {model.mteb_model_meta.name} failed on {task.metadata.name}: {error}. No "
                           "score was kept for it and no average is taken without it; correct the cause and run "
                           "the stage again, finished tasks are kept") from error
    if not preloaded:
        task.unload_data()
    score = result.get_score()
    if len(per_item) > 1 and sum(len(subsets) for subsets in result.scores.values()) == 1:
        score = sum(per_item.values()) / len(per_item)  # mteb's, before it rounds retrieval scores to five digits
    mteb.ResultCache(work).save_to_cache(result, model.mteb_model_meta, encode_kwargs=settings)
    return float(score), per_item


def _score_tasks(make_model: Any, model_id: str, tasks: list, work: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the tasks that `work` does not hold yet; both tables for all of them."""
    from hrsa.evaluation.tasks import task_family

    tables: tuple[list, list] = [], []
    with quiet(*TASK_LOGGERS), progress(len(tasks), "evaluation", model_id, unit="task") as bar:
        for task in tasks:
            name = task.metadata.name
            files = [work / "tables" / f"{name}.{part}.parquet" for part in ("items", "score")]
            if not files[1].is_file():
                value, per_item = run_task(make_model(), task, work)
                store.write_table(files[0], pd.DataFrame(
                    {"model": model_id, "task": name, "query": list(per_item), "value": list(per_item.values())}))
                store.write_table(files[1], pd.DataFrame(
                    [[model_id, name, task_family(task), task.metadata.main_score, value]], columns=SCORE_COLUMNS))
            for table, file, columns in zip(tables, files, (QUERY_COLUMNS, SCORE_COLUMNS), strict=True):
                table.append(store.read_table(file, columns))
            bar.update()
    return pd.concat(tables[1], ignore_index=True), pd.concat(tables[0], ignore_index=True)


def _encoder_maker(profile: Profile, model_id: str, revision: str) -> partial:
    """Load a model of the study; what makes a fresh mteb encoder around it, which checks its attention each time."""
    from hrsa.evaluation.embedding_cache import Embeddings
    from hrsa.evaluation.encoder import InstructedEncoder, model_meta
    from hrsa.models.as_it_came import read_manner
    from hrsa.models.resolve import make_backbone_folder
    from hrsa.study import runtime
    from hrsa.training import train

    model = profile.model(model_id)
    runtime.prepare(profile.threads, model.seed or 0)
    loaded = train.make_model(profile, model_id)
    if model.seed is None:
        manner = read_manner(make_backbone_folder(profile, model.backbone))
        attention, own = manner.attention, manner.own_prompts
    else:
        attention, own = profile.varied(model.ablation).attention, None
    kept = Embeddings(embedding_folder(profile, model_id))
    return partial(InstructedEncoder, loaded, model_meta(model_id, revision), attention, profile.suite.uninstructed,
                   kept, own)


def _made_by(profile: Profile, model_id: str) -> dict[str, Any]:
    """What decides a model's embedding of a text, beside code: weights and length limit. BM25 is its own name."""
    if model_id == LEXICAL:
        return {"weights": LEXICAL}
    from hrsa.training.train import make_weights_key

    recipe = profile.varied(profile.model(model_id).ablation)
    return {"weights": make_weights_key(profile, model_id), "max_length": recipe.max_length}


def embedding_folder(profile: Profile, model_id: str) -> Path:
    """Where a model's embeddings of evaluation texts are kept (see `embedding_cache`), whatever the list of tasks.

    An embedder is trained first where missing: the folder is named for its weights.
    """
    key = store.key(**_made_by(profile, model_id), threads=profile.threads,
                    code=code_hash(_encoder_maker),
                    versions=[metadata.version(name) for name in ("torch", "transformers", "sentence-transformers")])
    return store.artefact(profile.name, "embeddings", model_id, key)


def _scorable(profile: Profile, model_id: str, revision: str) -> tuple[list, partial]:
    """The tasks that a model is scored on, and what makes an mteb model of it anew for each of them."""
    from hrsa.evaluation.tasks import study_tasks, task_family

    tasks = list(study_tasks(profile))
    if model_id == LEXICAL:
        from hrsa.evaluation.encoder import BM25Search, model_meta

        tasks = [task for task in tasks if task_family(task) == "retrieval"]
        make_model = partial(BM25Search, model_meta(model_id, revision, dense=False))
    else:
        from hrsa.evaluation.encoder import task_instruction

        for task in tasks:
            task_instruction(task.metadata, profile.suite.uninstructed)  # refuses now, not after hours
        make_model = _encoder_maker(profile, model_id, revision)
    if not tasks:
        raise ValueError(f"expected at least one task to score {model_id} on, got none: name some in suite.tasks")
    return tasks, make_model


def _suite_key(profile: Profile) -> str:
    """Hash of what the profile is scored on: names, caps, and the files of the local tasks."""
    suite = profile.suite
    files = {name: [store.file_hash(file) for file in sorted((store.SUITE / "eval" / name).glob("*"))]
             for name in suite.tasks}
    cards = store.file_hash(store.SUITE / "eval" / "tasks.json") if suite.tasks else None  # instructions, metrics
    return store.key(files=files, cards=cards, **suite.model_dump(
        include={"tasks", "benchmarks", "benchmark_tasks", "max_docs", "max_queries", "max_subsets", "uninstructed",
                 "dimensions"}))


def evaluate_model(profile: Profile, model_id: str) -> Path:
    """Score a model of the study, or `bm25`, on every task of the profile; returns the artefact's folder.

    Files: `scores.parquet` [model, task, family, metric, value], one row per task, 0..1 (correlations -1..1);
    `per_query.parquet` [model, task, query, value], **whose mean over a task's rows is that task's score** (within
    1e-9; where a benchmark task has several subsets, the score is mteb's unweighted mean over subsets instead).
    What a row is depends on the family, see `hrsa.evaluation.item_scores`. `results/` holds mteb's JSON, readable by
    `mteb.ResultCache(folder)` as model `hrsa/<model id>`; `predictions/` the run files. Where `suite.dimensions` names
    some, `dimensions.parquet` [model, task, family, metric, value, dimensions] has the scores of each dense model with
    the first so many dimensions of its embeddings alone.

    Each task's instruction goes before its queries and before all texts of symmetric tasks, never before documents.
    BM25 sees bare queries and is scored on retrieval tasks only.

    Raises ValueError for an unknown model, task or benchmark and for a task without instruction (unless
    `suite.uninstructed` says otherwise), RuntimeError when the leak probe or any task fails: then the stage has
    no result at all. Finished tasks are not run again.
    """
    made_from = {**_made_by(profile, model_id), "suite": _suite_key(profile), "mteb": metadata.version("mteb"),
                 "threads": profile.threads, "code": code_hash(evaluate_model)}
    folder = store.artefact(profile.name, "evaluation", model_id, store.key(**made_from))
    work = store.scratch(folder)

    def build(target: Path) -> None:
        tasks, make_model = _scorable(profile, model_id, folder.name.removeprefix(f"{model_id}-"))
        fewer = {} if model_id == LEXICAL else {
            count: partial(make_model, dimensions=count) for count in profile.suite.dimensions}
        for make in fewer.values():
            make()  # refuses now, not after hours
        scores, per_query = _score_tasks(make_model, model_id, tasks, work)
        if fewer:
            store.write_table(target / _DIMENSIONS, pd.concat([
                _score_tasks(make, model_id, tasks, work / f"first-{count}")[0].assign(dimensions=count)
                for count, make in fewer.items()], ignore_index=True))
        for part in (_RESULTS, _PREDICTIONS):
            shutil.copytree(work / part, target / part)
        store.write_table(target / _SCORES, scores)
        store.write_table(target / _PER_QUERY, per_query)

    return store.make(folder, build, (evaluate_model,), profile=profile.name, model=model_id, **made_from)


def make_scores(profile: Profile, model_ids: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and scores per query of several models, one table each, evaluated first where they are not yet."""
    return read_scores([evaluate_model(profile, model_id) for model_id in model_ids])


def make_dimension_scores(profile: Profile, model_ids: list[str]) -> pd.DataFrame:
    """Scores of dense models with the first of their dimensions, [model, task, family, metric, value, dimensions];
    without rows where `suite.dimensions` names none. Evaluated first where they are not yet."""
    if not profile.suite.dimensions:
        return pd.DataFrame(columns=DIMENSION_COLUMNS)
    return pd.concat([store.read_table(evaluate_model(profile, model_id) / _DIMENSIONS, DIMENSION_COLUMNS)
                      for model_id in model_ids], ignore_index=True)


def read_scores(folders: Iterable[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and scores per query of finished evaluations, one table each; see `evaluate_model` for their columns."""
    tables = [(store.read_table(folder / _SCORES, SCORE_COLUMNS), store.read_table(folder / _PER_QUERY, QUERY_COLUMNS))
              for folder in folders]
    scores, per_query = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    return scores, per_query
