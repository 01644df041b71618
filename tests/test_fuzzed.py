"""Inputs that nobody thought of: what is public takes them or refuses them in words, and never gives what cannot be."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hrsa.similarity import METRICS, compare_arrays, compare_layers, fit_probe, linear_cka, open_states, shown_k
from hrsa.study.profile import PROFILES, Profile, load_profile
from hrsa.study.store import read_json, read_table
from hrsa.texts import own_probes, training_sources
from hrsa.texts.lines import read_json_rows, read_lines
from hrsa.training.batches import draw_batches
from hrsa.training.gradient_cache import mini_batches_of
from hrsa.training.infonce import false_negatives, info_nce, near_positives, text_id
from hrsa.verdict import verdict
from hrsa.verdict.competence import Baselines, competence
from hrsa.verdict.equivalence import WORDS, holm, verdicts
from hrsa.verdict.evidence import read_evidence
from hrsa.verdict.paired_scores import checked_scores
from hrsa.verdict.power import measure, power_table, variance_shares


def fuzzed(examples, **inputs):
    """Hypothesis on keyword arguments, from the seed of the test run; quick, and silent about time."""
    def decorate(test):
        return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))(
            given(**inputs)(test))

    return decorate


def refused(call, *arguments, **options):
    """What a call gives; None when it refuses in words of this project, which say what was expected."""
    try:
        return call(*arguments, **options)
    except ValueError as error:
        assert "expected" in str(error) or "correct these keys" in str(error), error
        return None


DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_, np.complex64, "U2", object])
ANY = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
REAL = st.sampled_from([np.float16, np.float32, np.float64])


@st.composite
def pairs(draw, most=9):
    """Two matrices of as many rows, of any real dtype, often with equal, constant, huge or tiny rows and columns."""
    n = draw(st.integers(1, most))
    made = []
    for _ in range(2):
        x = draw(hnp.arrays(draw(REAL), (n, draw(st.integers(1, 5)))))
        kind = draw(st.sampled_from(["as it is", "finite", "few values", "equal rows", "one column"]))
        if kind != "as it is":
            x = np.nan_to_num(x, posinf=1, neginf=-1)
        if kind == "few values":
            x = np.sign(x)
        if kind == "equal rows":
            x[:] = x[0]
        if kind == "one column":
            x[:, 1:] = 0
        made.append(x)
    return made


def fits(metric, value):
    """Whether a value is one that the metric can have."""
    return np.isnan(value) or METRICS[metric].low - 1e-6 <= value <= METRICS[metric].high + 1e-6


@fuzzed(150, xy=pairs(), metric=st.sampled_from(list(METRICS)), k=st.none() | st.integers(-1, 9))
def test_a_similarity_of_any_two_matrices_is_in_its_range_or_refused(xy, metric, k):
    value = refused(compare_arrays, *xy, metric, k)
    assert value is None or fits(metric, value), value


@fuzzed(60, x=ANY, y=ANY, metric=st.sampled_from([*METRICS, "no metric"]))
def test_arrays_of_any_shape_and_kind(x, y, metric):
    for call in (lambda: compare_arrays(x, y, metric), lambda: linear_cka(x, y), lambda: compare_layers(x, y, [metric]),
                 lambda: open_states(x, "x")):
        refused(call)


@fuzzed(40, xy=pairs(), many=st.integers(0, 3), level=st.floats(0.01, 0.99), seed=st.integers(0, 99),
        ids=st.lists(st.integers(0, 3), min_size=1, max_size=9), memory=st.sampled_from([None, 16, 512]))
def test_intervals_and_nulls_of_any_grouping(xy, many, level, seed, ids, memory):
    ids = np.resize(ids, len(xy[0]))
    table = refused(compare_layers, [xy[0], xy[0]], [xy[1]], [*METRICS], ks=(1, 2), layers="matched", level=level,
                    texts=ids, classes=ids, resamples=many, permutations=many, memory_mb=memory,
                    rng=np.random.default_rng(seed))
    for row in () if table is None else table.itertuples():
        assert all(fits(row.metric, value) for value in (row.value, row.low, row.high, row.null)), row
        assert not row.low > row.high, row


LABELS = st.lists(st.integers(0, 2) | st.none() | st.text(max_size=1) | st.floats(), max_size=12)


@fuzzed(40, xy=pairs(12), labels=LABELS,
        task=st.sampled_from(["classification", "regression", "other"]), penalty=st.floats())
def test_a_probe_of_anything(xy, labels, task, penalty):
    given_labels = np.array((labels * 12)[: len(xy[0])], dtype=object)
    try:
        probe = refused(fit_probe, xy[0], given_labels, task, penalty)
    except RuntimeError as error:
        assert "expected the optimum" in str(error)
        return
    if probe is not None:
        assert len(probe.predict(np.nan_to_num(xy[0].astype(float)))) == len(xy[0])


@fuzzed(50, ks=st.lists(st.integers(-9, 99)), metric=st.sampled_from(list(METRICS)), value=st.floats(-9, 9))
def test_what_is_shown_of_a_metric(ks, metric, value):
    assert (refused(shown_k, ks) in ks) == bool(ks)
    found = METRICS[metric]
    assert found.apart(found.identical) == 0 and (value - found.identical) * found.sign * found.apart(value) <= 0


SCORES = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]) | st.floats()


@st.composite
def arms(draw):
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 6)))
    tasks = draw(st.none() | st.lists(st.sampled_from("xyz"), min_size=shape[1], max_size=shape[1]))
    return *(draw(hnp.arrays(float, shape, elements=SCORES)) for _ in range(2)), tasks


@fuzzed(120, arms=arms(), margin=st.floats(1e-6, 0.5) | st.floats(), alpha=st.floats(0.02, 0.4) | st.floats(),
        resamples=st.integers(0, 300), held=st.booleans(), chance=SCORES)
def test_a_verdict_of_anything_is_a_word_that_fits_its_interval(arms, margin, alpha, resamples, held, chance):
    a, b, tasks = arms
    queries = a.shape[1]
    baselines = Baselines(np.full(queries, 0.3), np.full(queries, 0.3), np.full(queries, chance)) if held else None
    found = refused(verdict, a, b, margin, tasks, alpha, 0, resamples, baselines)
    if found is None:
        return
    assert found.verdict in WORDS and found.low <= found.difference <= found.high and found.smallest_margin >= 0
    assert 0 < found.p_difference <= 1 and 0 < found.p_equivalence <= 1
    if found.verdict in ("equivalent", "negligible"):
        assert -margin < found.low and found.high < margin
    mirrored = verdict(b, a, margin, tasks, alpha, 0, resamples,
                       baselines and Baselines(baselines.untrained_b, baselines.untrained_a, baselines.chance))
    assert (mirrored.verdict, mirrored.low, mirrored.high) == (found.verdict, -found.high, -found.low)
    both = verdicts({"one": (a, b, tasks, baselines), "two": (a, b, tasks, baselines)}, margin, alpha, 0, resamples)
    assert len(both) == 2


@fuzzed(60, arms=arms(), margin=st.floats(0.001, 0.5), confidence=st.none() | st.floats(0.01, 0.99),
        sizes=st.lists(st.integers(0, 5), min_size=1, max_size=2))
def test_variances_and_power_of_anything(arms, margin, confidence, sizes):
    a, b, tasks = arms
    found = refused(measure, a, b, tasks, confidence)
    if found is None:
        return
    table = refused(power_table, found, margin, sizes, sizes)
    assert table is None or (table["power"].between(0, 1).all() and (table["provable"] >= 0).all())
    shares = variance_shares(found, 2, 3)["share"]
    assert shares.isna().all() or shares.sum() == pytest.approx(1)


@fuzzed(50, p=st.lists(st.floats(0, 1), max_size=8))
def test_holm_raises_and_keeps_the_order(p):
    corrected = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, corrected, strict=True))
    assert [corrected[i] for i in np.argsort(p, kind="stable")] == sorted(corrected)


@fuzzed(60, size=st.tuples(st.integers(1, 5), st.integers(0, 4)), data=st.data(), temperature=st.floats(0.005, 10),
        margin=st.floats(0, 1))
def test_the_loss_of_any_cosines_is_a_number(size, data, temperature, margin):
    b, p = size[0], size[0] + size[1]
    scores = torch.from_numpy(data.draw(hnp.arrays(np.float32, (b, p), elements=st.floats(-1, 1, width=32))))
    texts = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=p, max_size=p)))
    row = st.lists(st.integers(0, 3), min_size=2, max_size=2)
    known = torch.tensor(data.draw(st.lists(row, min_size=b, max_size=b)))
    own = torch.arange(b)
    repeats, near = false_negatives(texts, own, known), near_positives(scores, own, margin)
    for i in range(b):
        assert repeats[i].tolist() == [j != i and int(texts[j]) in known[i].tolist() for j in range(p)]
    mask = repeats | near
    assert not mask[own, own].any()
    loss = info_nce(scores, own, mask, temperature)
    kept = [np.logaddexp.reduce((scores[i][~mask[i]].double() / temperature).numpy()) for i in range(b)]
    expected = [total - float(scores[i, i]) / temperature for i, total in enumerate(kept)]
    assert (loss >= -1e-4).all() and loss.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@fuzzed(60, lengths=st.lists(st.integers(1, 9), min_size=4, max_size=24), budget=st.integers(1, 60))
def test_every_text_is_in_one_mini_batch(lengths, budget):
    lengths = lengths[: len(lengths) // 2 * 2]
    rows = len(lengths) // 2
    ids = [torch.zeros(rows, 9, dtype=torch.long) for _ in range(2)]
    masks = [torch.zeros(rows, 9, dtype=torch.long) for _ in range(2)]
    for at, length in enumerate(lengths):
        masks[at // rows][at % rows, :length] = 1
        ids[at // rows][at % rows, :length] = torch.arange(length) + at
    columns = [{"input_ids": i, "attention_mask": m} for i, m in zip(ids, masks, strict=True)]
    found, where = mini_batches_of(columns, budget)
    texts = torch.cat([batch.texts for batch in found])
    assert sorted(texts.tolist()) == list(range(len(texts))) and len(where) == len(lengths)
    assert all(0 <= int(place) < len(texts) for place in where)


@fuzzed(60, groups=st.lists(st.sampled_from("xyz"), max_size=40), size=st.integers(1, 6), steps=st.integers(1, 9),
        seed=st.integers(0, 2**32 - 1))
def test_batches_of_any_groups_are_of_one_group(groups, size, steps, seed):
    batches = refused(draw_batches, np.array(groups, dtype=str), size, steps, seed)
    for rows in () if batches is None else batches:
        assert len({groups[row] for row in rows}) == 1 and len(set(rows.tolist())) == size


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2), max_leaves=4)
SHIPPED = {path.stem: yaml.safe_load(path.read_text(encoding="utf8")) for path in PROFILES.glob("*.yaml")}


def places(content, at=()):
    """Where values stand in a profile's content."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


@fuzzed(150, name=st.sampled_from(sorted(SHIPPED)), data=st.data(), value=VALUES)
def test_a_profile_with_anything_anywhere_is_a_study_or_refused(folder, name, data, value):
    content = json.loads(json.dumps(SHIPPED[name]))
    *way, last = data.draw(st.sampled_from(places(content)[1:]))
    inner = content
    for key in way:
        inner = inner[key]
    inner[last] = value
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf8")
    profile = refused(load_profile, file)
    assert profile is None or Profile.model_validate(json.loads(json.dumps(profile.model_dump(mode="json")))) == profile


BYTES = st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf8", "surrogatepass"))


@fuzzed(100, content=BYTES)
def test_files_of_any_bytes_are_read_or_refused(folder, content):
    for ending in ("txt", "jsonl", "yaml", "json", "parquet"):
        (folder / f"own.{ending}").write_bytes(content)
    lines = refused(lambda: list(read_lines(folder / "own.txt")))
    if lines is not None:
        assert all(line.strip() and not {"\n", "\r"} & set(line) for _, line in lines)
    refused(lambda: list(read_json_rows(folder / "own.jsonl", "x")))
    for read, endings in ((own_probes.read_texts, ("txt", "jsonl", "parquet")), (load_profile, ("yaml",)),
                          (read_json, ("json",)), (read_table, ("parquet",)), (read_evidence, ("parquet",))):
        for ending in endings:
            refused(read, folder / f"own.{ending}")


COLUMNS = ("text", "id", "set", "label", "topic", "target", "difficulty", "query", "pos", "neg", "positive",
           "negatives", "instruction")
ROWS = st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5), max_size=4)


@fuzzed(120, rows=ROWS)
def test_rows_of_any_form_are_read_or_refused(folder, rows):
    file = folder / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf8")
    table = refused(own_probes.read_texts, file)
    if table is not None:
        assert len(table) == len(rows) and table["id"].is_unique and table["text"].str.strip().all()
    found = refused(training_sources.Source("rows", file).read)
    assert found is None or set(found["task"]) <= {"rows"}


@fuzzed(60, text=st.text(), scores=st.lists(st.tuples(st.text(max_size=2), st.text(max_size=2), st.floats())))
def test_scores_and_texts_of_any_kind(text, scores):
    if refused(text_id, text) is not None:
        assert -(2**63) <= text_id(text) < 2**63
    table = pd.DataFrame([("m", *row) for row in scores], columns=["model", "task", "query", "value"])
    refused(checked_scores, table, "x")


@fuzzed(40, arms=arms(), margin=st.floats(0.001, 0.5), alpha=st.floats(0.02, 0.4))
def test_competence_of_any_scores(arms, margin, alpha):
    a, b, tasks = arms
    before = np.full(a.shape[1], 0.4)
    found = refused(competence, a, b, Baselines(before, before, before), tasks, margin, alpha, 0, 200)
    assert found is None or not (found["both"] & ~found["counts"]).any()


FOUND = {  # what broke something once
    "scores beyond all numbers": lambda _: measure(np.zeros((2, 2)), np.full((2, 2), 1e154)),
    "infinite scores": lambda _: measure(np.zeros((2, 2)), np.full((2, 2), np.inf)),
    "no scores at all": lambda _: measure(np.zeros((0, 0)), np.zeros((0, 0))),
    "tasks of other queries": lambda _: measure(np.zeros((2, 2)), np.ones((2, 2)), ["x"]),
    "chance beyond all numbers": lambda _: competence(*[np.eye(2)] * 2, Baselines(*BASE[:2], np.full(2, 4e307))),
    "infinite scores at the gate": lambda _: competence(np.full((2, 2), np.inf), np.zeros((2, 2)), Baselines(*BASE)),
    "states that float32 does not hold": lambda _: compare_arrays(np.full((3, 1), 2e83), np.zeros((3, 1)), "knn", 1),
    "states whose products are none": lambda _: compare_arrays(np.full((5, 1), 1e12), np.ones((5, 1)), "cka"),
    "a number for an array": lambda _: compare_arrays(np.array(0.0), np.array(0.0), "knn"),
    "numbers for layers": lambda _: compare_layers(np.zeros((2,)), [np.array(0.0)]),
    "texts for targets": lambda _: fit_probe(np.eye(3), np.array(["", "a", "b"]), "regression"),
    "texts and numbers for classes": lambda _: fit_probe(np.eye(3), np.array(["a", 1, 2], object), "classification"),
    "an infinite penalty": lambda _: fit_probe(np.eye(3), np.array([0, 1, 2]), "classification", np.inf),
    "a list for a label": lambda file: texts_of(file, label=[]),
    "an object for a difficulty": lambda file: texts_of(file, difficulty={"hard": True}),
    "a list for a target": lambda file: texts_of(file, target=[1]),
    "a record of other bytes": lambda file: read_json(written(file, b"\x80")),
    "a record nested without end": lambda file: read_json(written(file, b"[" * 100_000))}
BASE = (np.zeros(2),) * 3


def written(file, content):
    file.write_bytes(content)
    return file


def texts_of(file, **row):
    rows = written(file.with_suffix(".jsonl"), json.dumps({"text": "a", **row}).encode())
    return own_probes.read_texts(rows)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused_in_words(name, tmp_path):
    with pytest.raises(ValueError, match="expected"):
        FOUND[name](tmp_path / "file")
