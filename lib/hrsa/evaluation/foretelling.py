"""From geometry to behaviour: does local change around a query say that two embedders rank its documents differently?

Per query of the local retrieval tasks, two models are held against each other by what they have near the query and near
its right documents. What these say of the *trained* pair's scores is asked out of sample, beside predictors that know
scores alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr

from hrsa.evaluation.embedding_cache import Embeddings, text_key
from hrsa.evaluation.evaluate import embedding_folder, evaluate_model
from hrsa.study import store
from hrsa.study.code_hash import code_hash
from hrsa.study.profile import Model, Profile
from hrsa.texts.suite import EvalTask, load_task, query_prompt

NEAR = 10  # documents that count as near
LOCAL = ["retrieved", "around", "cosines"]  # how alike two models are around a query, 1: the same
_NAME, FOLDS, RESAMPLES = "local.parquet", 10, 1000
KNOWN_SCORES, DIFFERING = ["level", "apart"], ["arms", "runs"]
PREDICTORS = ("scores alone", "local change alone", "both")


def local_change(queries: tuple[np.ndarray, np.ndarray], documents: tuple[np.ndarray, np.ndarray],
                 right: Sequence[np.ndarray], k: int = NEAR) -> pd.DataFrame:
    """How alike two models are around each query: `LOCAL`, a row a query.

    queries, documents: unit vectors (q, d) and (n, d) of either model, d may differ; right: row numbers of the right
    documents of each query. *retrieved*: Jaccard index of the k documents nearest to the query; *around*: mean over the
    right documents of that of their k nearest other documents; *cosines*: Pearson correlation over documents of their
    cosines with the query. ValueError when fewer than k + 1 documents are there.
    """
    n = len(documents[0])
    if n <= k:
        raise ValueError(f"expected more than {k} documents to have {k} near ones, got {n}: raise suite.max_docs")
    to_documents = [q @ d.T for q, d in zip(queries, documents, strict=True)]  # (q, n) each
    between = [d @ d.T for d in documents]  # (n, n) each
    for products in between:
        np.fill_diagonal(products, -np.inf)
    near = [np.argsort(-x, axis=1, kind="stable")[:, :k] for x in to_documents]
    beside = [np.argsort(-x, axis=1, kind="stable")[:, :k] for x in between]
    around = np.array([_jaccard(a, b) for a, b in zip(*beside, strict=True)])  # (n,)
    centred = [x - x.mean(axis=1, keepdims=True) for x in to_documents]
    lengths = [np.linalg.norm(x, axis=1) for x in centred]
    with np.errstate(invalid="ignore"):
        cosines = (centred[0] * centred[1]).sum(axis=1) / (lengths[0] * lengths[1])
    return pd.DataFrame({"retrieved": [_jaccard(a, b) for a, b in zip(*near, strict=True)],
                         "around": [around[rows].mean() for rows in right], "cosines": cosines})


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def has_local_retrieval(profile: Profile) -> bool:
    """Whether the profile scores a retrieval task of the suite, so that local change can be asked."""
    return any(load_task(name, profile).family == "retrieval" for name in profile.suite.tasks)


def make_local_change(profile: Profile, a: str, b: str) -> Path:
    """Artefact with `local.parquet` [task, query, *LOCAL] of two models of the study on its local retrieval tasks.

    They are scored first where they are not. ValueError when the profile has no such task.
    """
    folders = [embedding_folder(profile, model) for model in (a, b)]
    scored = [evaluate_model(profile, model).name for model in (a, b)]
    key = store.key(scored=scored, embedded=[folder.name for folder in folders], k=NEAR,
                    code=code_hash(make_local_change))

    def build(target: Path) -> None:
        tables = [_of_task(task, folders) for name in profile.suite.tasks
                  if (task := load_task(name, profile)).family == "retrieval"]
        if not tables:
            raise ValueError(f"expected a retrieval task in suite.tasks of {profile.name}, got "
                             f"{list(profile.suite.tasks)}: local change is asked around queries")
        store.write_table(target / _NAME, pd.concat(tables, ignore_index=True))

    return store.make(store.artefact(profile.name, "evaluation", f"{a}-beside-{b}", key), build, (make_local_change,),
                      models=[a, b])


def _of_task(task: EvalTask, folders: Sequence[Path]) -> pd.DataFrame:
    prompt = query_prompt(task.instruction)
    vectors = [(_taken(folder, prompt, task.queries["text"]), _taken(folder, "", embedded_documents(task)))
               for folder in folders]
    table = local_change(tuple(q for q, _ in vectors), tuple(d for _, d in vectors), right_documents(task))
    return table.assign(task=task.name, query=task.queries["id"].to_numpy())


def embedded_documents(task: EvalTask) -> pd.Series:
    """The documents of a retrieval task as mteb hands them to a model: without white space at their ends."""
    return task.corpus["text"].str.strip()


def right_documents(task: EvalTask) -> list[np.ndarray]:
    """Row numbers of the right documents of each query of a retrieval task."""
    place = {document: row for row, document in enumerate(task.corpus["id"])}
    return [np.array([place[name] for name, grade in task.qrels[query].items() if grade > 0 and name in place])
            for query in task.queries["id"]]


def _taken(folder: Path, prompt: str, texts: pd.Series) -> np.ndarray:
    """Unit vectors (n, d) of texts from a model's embeddings; ValueError names how many are gone."""
    keys = [text_key(prompt, text) for text in texts]
    found = Embeddings(folder).take(keys)
    if missing := sum(key not in found for key in keys):
        raise ValueError(f"expected embeddings of {len(keys)} texts in {folder.name}, got {len(keys) - missing}: "
                         "delete the model's folder under evaluation/ and run again, so that it is scored anew")
    vectors = np.stack([found[key] for key in keys]).astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def foretold(table: pd.DataFrame, outcome: str, scores: Sequence[str], local: Sequence[str] = LOCAL,
             seed: int = 0) -> pd.DataFrame:
    """How much of an outcome per query is foretold out of sample by scores, by local change, and by both.

    table: one row a query with `task`, the outcome and the predictors. Ridge regression with an intercept for each
    task, fitted on nine tenths of the queries and judged on the last, in turn. Returns [predictors, share, low, high,
    p]: the share of the variance within tasks that is foretold (negative: worse than the task's mean), with 95%
    intervals over queries and the two-sided p-value of no share (normal, by the resamples' spread), in the order of
    `PREDICTORS`, and last `gain`, both less scores alone. ValueError for fewer than 50 queries or an outcome that does
    not vary.
    """
    y = table[outcome].to_numpy(float)
    tasks = pd.get_dummies(table["task"], dtype=float).to_numpy()  # (q, tasks)
    within = y - tasks @ ((tasks * y[:, None]).sum(0) / tasks.sum(0))
    if len(y) < 5 * FOLDS or not within.any():
        raise ValueError(f"expected at least {5 * FOLDS} queries with an outcome that varies within a task, got "
                         f"{len(y)}{'' if within.any() else ', all alike'}: score more queries")
    columns = dict(zip(PREDICTORS, (list(scores), list(local), [*scores, *local]), strict=True))
    errors = {name: _errors(table[names].to_numpy(float), tasks, y, seed) for name, names in columns.items()}
    whole = _errors(np.empty((len(y), 0)), tasks, y, seed)  # the task's mean, out of sample too
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(y), size=(RESAMPLES, len(y)))  # (resamples, q)
    rows = []
    for name, of in {**errors, "gain": None}.items():
        less = whole - of if of is not None else errors[PREDICTORS[0]] - errors[PREDICTORS[2]]
        shares = less[draws].sum(axis=1) / whole[draws].sum(axis=1)
        low, high = np.quantile(shares, [0.025, 0.975])
        share = less.sum() / whole.sum()
        rows.append((name, share, low, high, 2 * ndtr(-abs(share) / max(shares.std(), 1e-12))))
    return pd.DataFrame(rows, columns=["predictors", "share", "low", "high", "p"])


def _errors(x: np.ndarray, tasks: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Squared errors (q,) out of sample; predictors (q, p) are brought to unit variance within each fitted part."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold

    found = np.empty(len(y))
    for fitted, judged in KFold(FOLDS, shuffle=True, random_state=seed).split(y):
        mean, spread = x[fitted].mean(axis=0), x[fitted].std(axis=0)
        scaled = (x - mean) / np.where(spread > 0, spread, 1)
        model = Ridge(1.0, fit_intercept=False).fit(np.hstack([scaled, tasks])[fitted], y[fitted])
        found[judged] = (y[judged] - model.predict(np.hstack([scaled, tasks])[judged])) ** 2
    return found


def behaviour_table(profile: Profile, pair: str, per_query: pd.DataFrame) -> pd.DataFrame:
    """A row for each query of the local retrieval tasks: what was known of it before training, and what became of it.

    per_query: `evaluate.make_scores` of the arms' backbones and embedders. Columns: task, query; `LOCAL` of the two
    backbones as they came; `KNOWN_SCORES`, the mean and the absolute difference of the backbones' scores, which is what
    predictors know that see scores alone; `DIFFERING`: the absolute difference of the two arms' embedders, mean over
    seeds, and that of two runs of the first arm, mean over pairs of seeds (NaN with one seed).
    """
    arms = profile.pair(pair)
    folder = make_local_change(profile, arms.a, arms.b)
    local = store.read_table(folder / _NAME, [*LOCAL, "task", "query"]).set_index(["task", "query"])
    wide = per_query.pivot_table(index=["task", "query"], columns="model", values="value", aggfunc="first")
    wide = wide.loc[wide.index.isin(local.index)]
    of_a, of_b = (wide[[Model(backbone=arm, seed=seed).id for seed in profile.seeds]].to_numpy() for arm in
                  (arms.a, arms.b))  # (q, seeds) each
    orders = [(i, j) for i in range(len(profile.seeds)) for j in range(i)]
    runs = np.mean([np.abs(of_a[:, i] - of_a[:, j]) for i, j in orders], axis=0) if orders else np.nan
    known = pd.DataFrame({"level": (wide[arms.a] + wide[arms.b]) / 2, "apart": (wide[arms.a] - wide[arms.b]).abs(),
                          DIFFERING[0]: np.abs(of_a - of_b).mean(axis=1), DIFFERING[1]: runs}, index=wide.index)
    return local.join(known).dropna(subset=[*LOCAL, *KNOWN_SCORES]).reset_index()
