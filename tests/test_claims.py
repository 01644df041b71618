"""Claims follow the data: every outcome can be reached, evidence joins only when it may."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hrsa.evaluation.chance import CHANCE
from hrsa.report import results
from hrsa.report.prose import paper, verdict
from hrsa.report.results import read_committed
from hrsa.study import store
from hrsa.study.profile import Pair, load_profile
from hrsa.verdict import evidence, paired_scores, published, statement
from hrsa.verdict.claims import (
    CLAIMS,
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    NOT_TESTABLE,
    SIMILARITY_COLUMNS,
    all_claims,
    count_outcomes,
    score_claims,
    similarity_claims,
)
from hrsa.verdict.synthesis import (
    competence_by_task,
    error_shares,
    one_number,
    other_analyses,
    plans,
    score_variances,
    score_verdicts,
    summarise_pair,
)

BASE = {"RLVR": {"correlation": (0.95, 0.97), "inverse_row_entropy": (0.9, 0.92), "debiased_cka": (0.97, 0.98),
                 "knn": (0.6, 0.62), "probe_delta": (0.0, 0.02)},
        "SFT": {"correlation": (0.3, 0.35), "inverse_row_entropy": (0.2, 0.22), "debiased_cka": (0.6, 0.65),
                "knn": (0.2, 0.22), "probe_delta": (0.2, 0.25)}}
AFTER = {"correlation": (0.97, 0.99), "inverse_row_entropy": (0.95, 0.97), "debiased_cka": (0.985, 0.99),
         "knn": (0.1, 0.12), "probe_delta": (0.0, 0.03)}
RUNS = {"debiased_cka": (0.985, 0.992), "inverse_row_entropy": (0.95, 0.97)}  # two runs of one recipe


def similar(changes=None):
    """Rows for an RLVR and an SFT pair as the paper has it; `changes` replaces (kind, models, metric) -> bounds."""
    rows = []
    for kind, before in BASE.items():
        for models, bounds in (("backbones", before), ("embedders", AFTER)):
            for metric, pair_bounds in bounds.items():
                low, high = (changes or {}).get((kind, models, metric), pair_bounds)
                runs = (changes or {}).get((kind, "two runs", metric), RUNS.get(metric, (0.7, 0.8)))
                other = (changes or {}).get((kind, "crossed", metric), pair_bounds)
                held = [(np.mean(pair), *pair) if models == "embedders" else (np.nan,) * 3 for pair in (runs, other)]
                ceiling = np.nan if metric == "probe_delta" else 0.9999
                rows.append((kind.lower(), kind, metric, models, (low + high) / 2, low, high, *held[0], *held[1],
                             ceiling, 1000))
    return pd.DataFrame(rows, columns=SIMILARITY_COLUMNS)


def test_all_claims_hold_on_the_papers_story():
    table = similarity_claims(similar())
    assert set(table["outcome"]) == {HOLDS}
    assert set(table["claim"]) >= {claim.claim for claim in CLAIMS}
    assert table["rule"].str.len().min() > 10


@pytest.mark.parametrize(("change", "bounds", "text", "outcome"), [
    (("RLVR", "backbones", "correlation"), (0.5, 0.6), "keeps the representation", FAILS),
    (("RLVR", "backbones", "correlation"), (0.85, 0.95), "keeps the representation", INCONCLUSIVE),
    (("RLVR", "backbones", "debiased_cka"), (0.2, 0.4), "near-isometric", FAILS),
    (("RLVR", "embedders", "inverse_row_entropy"), (0.7, 0.8), "realigns the basis", FAILS),
    (("RLVR", "embedders", "inverse_row_entropy"), (0.85, 0.95), "realigns the basis", INCONCLUSIVE),
    (("RLVR", "embedders", "debiased_cka"), (0.90, 0.96), "realigns the global", FAILS),
    (("RLVR", "embedders", "knn"), (0.65, 0.68), "do not come back", FAILS),
    (("RLVR", "crossed", "knn"), (0.82, 0.85), "stay reorganised", FAILS),
    (("RLVR", "crossed", "knn"), (0.65, 0.75), "stay reorganised", INCONCLUSIVE),
    (("RLVR", "crossed", "knn"), (np.nan, np.nan), "stay reorganised", INCONCLUSIVE),
    (("RLVR", "embedders", "knn"), (0.82, 0.85), "stay reorganised", HOLDS),  # same order: not like two runs
    (("RLVR", "backbones", "debiased_cka"), (0.9985, 0.99995), "realigns the global", NOT_TESTABLE),
    (("RLVR", "backbones", "debiased_cka"), (0.998, 0.9985), "realigns the global", NOT_TESTABLE),
    (("RLVR", "backbones", "debiased_cka"), (0.9782, 0.9790), "realigns the global", HOLDS),  # seen, so testable
    (("RLVR", "two runs", "debiased_cka"), (0.5, 0.97), "realigns the global", HOLDS),
    (("RLVR", "two runs", "inverse_row_entropy"), (np.nan, np.nan), "realigns the basis", HOLDS),
    (("RLVR", "embedders", "probe_delta"), (0.06, 0.1), "readouts are aligned", FAILS),
    (("SFT", "backbones", "probe_delta"), (0.0, 0.01), "degrade on the SFT", FAILS),
    (("SFT", "backbones", "correlation"), (0.93, 0.99), "SFT mixes", FAILS),
    (("RLVR", "backbones", "correlation"), (np.nan, np.nan), "keeps the representation", INCONCLUSIVE),
])
def test_outcomes_change_with_the_data(change, bounds, text, outcome):
    table = similarity_claims(similar({change: bounds}))
    kind = change[0].lower()
    found = table[table["claim"].str.contains(text, regex=False) & (table["pair"] == kind)]
    assert list(found["outcome"]) == [outcome]


def test_sft_and_rlvr_are_held_against_each_other():
    table = similarity_claims(similar({("SFT", "backbones", "knn"): (0.8, 0.9)}))
    found = table[table["claim"].str.startswith("SFT changes")].set_index("rule")["outcome"]
    assert list(found) == [HOLDS, HOLDS, FAILS]


def test_claims_refuse_missing_columns_and_double_rows():
    with pytest.raises(ValueError, match="runs_low"):
        similarity_claims(similar().drop(columns="runs_low"))
    with pytest.raises(ValueError, match="got 2"):
        similarity_claims(pd.concat([similar(), similar()]))


def scores(rng, shift=0.0, seeds=(0, 1, 2), arms=("base", "rlvr"), queries=120, gain=0.3):
    """Scores per query of embedders on three tasks of two families, a gain above their backbones and chance."""
    rows = []
    level = {task: rng.uniform(0.3, 0.7, queries) for task in "xyz"}
    for arm in arms:
        for seed in seeds:
            for task, base in level.items():
                value = base + rng.normal(0, 0.01, queries) + (shift if arm != "base" else 0)
                rows += [(f"{arm}-s{seed}", task, f"q{i}", v) for i, v in enumerate(value)]
        rows += [(arm, task, f"q{i}", v - gain) for task, base in level.items() for i, v in enumerate(base)]
    rows += [(CHANCE, task, "all", base.mean() - gain) for task, base in level.items()]
    return pd.DataFrame(rows, columns=paired_scores.QUERY_COLUMNS)


FAMILIES = pd.Series({"x": "retrieval", "y": "retrieval", "z": "pair"})
PAIR = Pair(name="base-vs-rlvr", a="base", b="rlvr", kind="RLVR")


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, HOLDS), (0.2, FAILS)])
def test_null_effect_from_scores(rng, shift, outcome):
    table = score_verdicts(scores(rng, shift), FAMILIES, [PAIR], (0, 1, 2), margin=0.02, resamples=400)
    assert list(table["family"]) == ["all", "retrieval", "pair"]
    claims = score_claims(table)
    assert claims["outcome"].iloc[0] == outcome
    assert list(claims["level"].unique()) == ["scores"]
    counted = count_outcomes(claims)
    assert counted[[HOLDS, FAILS, INCONCLUSIVE, NOT_TESTABLE]].to_numpy().sum() == len(claims) == 3


def test_a_family_that_is_missing_and_scores_without_baselines_are_refused(rng):
    table = scores(rng)
    with pytest.raises(ValueError, match="'z'"):
        score_verdicts(table, FAMILIES.drop("z"), [PAIR], (0, 1, 2), 0.02, resamples=100)
    for model in ("base", CHANCE):
        with pytest.raises(ValueError, match=rf"expected scores of \['{model}'\] to hold embedders against"):
            score_verdicts(table[table["model"] != model], FAMILIES, [PAIR], (0, 1, 2), 0.02)


def test_embedders_on_the_floor_are_uninformative_on_every_page(rng):
    table = scores(rng, gain=0.0)
    found = score_verdicts(table, FAMILIES, [PAIR], (0, 1, 2), 0.05, resamples=400)
    assert not set(found["verdict"]) & {"equivalent", "negligible", "inconclusive"}
    assert found["verdict"].iloc[0] == "uninformative" and score_claims(found)["outcome"].iloc[0] == INCONCLUSIVE
    assert "sameness takes 2" in verdict.verdict_lines(found) and "nothing follows" in verdict.verdict_lines(found)
    others = other_analyses(table, [PAIR], (0, 1, 2), 0.05, resamples=400)
    assert not set(others["verdict"]) & {"equivalent", "negligible", "inconclusive"}
    gate = competence_by_task(table, [PAIR], (0, 1, 2), 0.05, resamples=400)
    assert set(gate["arm"]) == {"base", "rlvr"} and not gate["competent"].all()
    assert "not above its backbone: base, rlvr" in verdict.tasks_that_count(gate)


def test_tasks_that_count_are_named_with_the_reason(rng):
    table = scores(rng)
    told = verdict.tasks_that_count(competence_by_task(table, [PAIR], (0, 1, 2), 0.05, resamples=400))
    assert told == "- base-vs-rlvr: 3 of 3 tasks count, and on 3 both arms are competent."
    high = table["model"].eq(CHANCE) & table["task"].eq("y")
    table.loc[high, "value"] = 0.9
    table.loc[table["model"].eq("rlvr") & table["task"].eq("z"), "value"] = 0.99
    told = verdict.tasks_that_count(competence_by_task(table, [PAIR], (0, 1, 2), 0.05, resamples=400))
    assert "2 of 3 tasks count, and on 1 both" in told
    assert "y (not above chance: base, rlvr)" in told and "z (not above its backbone: rlvr)" in told
    found = score_verdicts(table, FAMILIES, [PAIR], (0, 1, 2), 0.05, resamples=400).set_index("family")
    assert found.loc["all", "verdict"] == "uninformative" and found.loc["all", "competent"] == 1


YARDSTICKS = {"runs": 0.55, "runs_low": 0.5, "runs_high": 0.6, "crossed": 0.45, "crossed_low": 0.4, "crossed_high": 0.5,
              "ceiling": 0.99, "n": 100}


def test_one_number_of_layers_and_seeds():
    rows = pd.DataFrame({"models": "embedders", "seed": pd.array([0, 0, 1, 1], dtype="Int64"),
                         "value": [0.2, 0.4, 0.6, 0.8], "low": [0.1, 0.3, 0.5, 0.7], "high": [0.3, 0.5, 0.7, 0.9],
                         **YARDSTICKS})
    mean, last = one_number(rows).iloc[0], one_number(rows, last=True).iloc[0]
    assert (mean["value"], mean["low"], mean["high"]) == pytest.approx((0.5, 0.2, 0.8))
    assert (last["value"], last["low"], last["high"]) == pytest.approx((0.6, 0.3, 0.9))


def test_summary_of_a_pair_takes_the_right_rows():
    curve = pd.DataFrame([(metric, models, seed, layer, name, k, value, value - 0.1, value + 0.1)
                          for metric, ks in (("correlation", [None]), ("debiased_cka", [None]), ("cka", [None]),
                                             ("knn", [5, 10, 50]), ("inverse_row_entropy", [None]))
                          for models, seed in (("backbones", None), ("embedders", 0), ("embedders", 1))
                          for name in ("all", "maths") for k in ks
                          for layer, value in (("0", 0.9), ("1", 0.4 if name == "all" else 0.8), ("1+norm", 0.6))],
                         columns=["metric", "models", "seed", "layer_x", "set", "k", "value", "low", "high"])
    curve = curve.astype({"seed": "Int64", "k": "Int64"}).assign(**YARDSTICKS)
    probes = pd.DataFrame([(task, split, quantity, "backbones", None, 0.3 if split == "test" else 0.9, 0.2, 0.4)
                           for task in ("classification", "regression") for split in ("train", "test")
                           for quantity in ("own", "delta")],
                          columns=["task", "split", "quantity", "models", "seed", "value", "low", "high"])
    probes = probes.astype({"seed": "Int64"}).assign(**dict.fromkeys(YARDSTICKS, np.nan))
    table = summarise_pair({"correlation": curve, "cka": curve, "knn": curve, "procrustes": curve, "probes": probes})
    found = table.set_index(["metric", "models"])["value"]
    assert found["correlation", "backbones"] == pytest.approx(0.5)
    assert found["knn", "embedders"] == pytest.approx(0.5)
    assert found["inverse_row_entropy", "embedders"] == pytest.approx(0.6)
    assert found["probe_delta", "backbones"] == pytest.approx(0.3)


def test_pairing_by_seed_and_query(rng):
    table = scores(rng, queries=5)
    shuffled = table.sample(frac=1, random_state=int(rng.integers(1000)))
    a, b, tasks = paired_scores.paired(shuffled, "base", "rlvr", (0, 2))
    assert a.shape == b.shape == (2, 15) and list(tasks) == ["x"] * 5 + ["y"] * 5 + ["z"] * 5
    want = table.query("model == 'rlvr-s2' and task == 'y' and query == 'q3'")["value"].item()
    assert b[1, 8] == want
    assert paired_scores.seeds_of(table, "base", "rlvr") == [0, 1, 2]
    with pytest.raises(ValueError, match="rlvr-s7"):
        paired_scores.paired(table, "base", "rlvr", (0, 7))
    with pytest.raises(ValueError, match="same queries"):
        paired_scores.paired(table.drop(index=3), "base", "rlvr", (0, 1))


def test_evidence_joins_when_the_fingerprint_agrees(rng, tmp_path):
    smoke = load_profile("smoke")
    one, two = scores(rng, seeds=(0, 1), queries=4), scores(rng, seeds=(2,), queries=4)
    evidence.write_evidence(tmp_path / "one.parquet", smoke, one, "machine one", FAMILIES)
    other = smoke.model_copy(update={"seeds": (2,)})
    evidence.write_evidence(tmp_path / "two.parquet", other, two, "machine two", FAMILIES)
    joined, meta = evidence.join_evidence([tmp_path / "one.parquet", tmp_path / "two.parquet"])
    held = two["model"].isin(["base", "rlvr", CHANCE])  # these count once, as the first file has them
    assert len(joined) == len(one) + (~held).sum() and [m["source"] for m in meta] == ["machine one", "machine two"]
    first = one[one["model"] == "base"].reset_index(drop=True)
    pd.testing.assert_frame_equal(joined[joined["model"] == "base"].reset_index(drop=True), first)
    assert paired_scores.seeds_of(joined, "base", "rlvr") == [0, 1, 2]


def test_what_is_written_is_what_is_read(rng, tmp_path):
    file = tmp_path / "one.parquet"
    table, meta = evidence.write_evidence(file, load_profile("smoke"), scores(rng, queries=4), "one", FAMILIES)
    read, read_meta = evidence.read_evidence(file)
    pd.testing.assert_frame_equal(table, read, check_exact=True)
    assert meta == read_meta and list(table.columns) == paired_scores.QUERY_COLUMNS


@pytest.mark.parametrize(("section", "field", "value", "part"), [
    ("verdict", "margin", 0.05, "verdict"), ("recipe", "temperature", 0.1, "recipe"), ("suite", "max_docs", 7, "suite"),
])
def test_evidence_of_another_recipe_is_refused(rng, tmp_path, section, field, value, part):
    smoke = load_profile("smoke")
    changed = smoke.model_copy(update={section: getattr(smoke, section).model_copy(update={field: value})})
    evidence.write_evidence(tmp_path / "one.parquet", smoke, scores(rng, seeds=(0,), queries=3), "one", FAMILIES)
    evidence.write_evidence(tmp_path / "two.parquet", changed, scores(rng, seeds=(1,), queries=3), "two", FAMILIES)
    with pytest.raises(ValueError, match=f"another for {part}:"):
        evidence.join_evidence([tmp_path / "one.parquet", tmp_path / "two.parquet"])


def test_the_same_seed_with_other_scores_is_refused(rng, tmp_path):
    smoke = load_profile("smoke")
    table = scores(rng, seeds=(0,), queries=3)
    for name, content in (("one", table), ("copy", table), ("other", table.assign(value=table["value"] + 0.1))):
        evidence.write_evidence(tmp_path / f"{name}.parquet", smoke, content, name, FAMILIES)
    assert len(evidence.join_evidence([tmp_path / "one.parquet", tmp_path / "copy.parquet"])[0]) == len(table)
    with pytest.raises(ValueError, match="one score per model"):
        evidence.join_evidence([tmp_path / "one.parquet", tmp_path / "other.parquet"])


def test_not_evidence(rng, tmp_path):
    scores(rng, queries=2).to_parquet(tmp_path / "plain.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ValueError, match="without a fingerprint"):
        evidence.read_evidence(tmp_path / "plain.parquet")
    with pytest.raises(ValueError, match="copy it again"):
        evidence.read_evidence(tmp_path / "broken.parquet")
    with pytest.raises(ValueError, match="got none"):
        evidence.join_evidence([])


@pytest.fixture
def shared(rng, tmp_path):
    file = tmp_path / "one.parquet"
    return file, *evidence.write_evidence(file, load_profile("smoke"), scores(rng, queries=4), "one", FAMILIES)


def rewritten(file, rows=lambda table: table, meta=lambda said: said):
    """The evidence file with other rows or metadata, as somebody with a parquet library would write it."""
    table = pq.read_table(file)
    said = json.dumps(meta(json.loads(table.schema.metadata[b"hrsa.evidence"])))
    pq.write_table(pa.Table.from_pandas(rows(table.to_pandas()), preserve_index=False).replace_schema_metadata(
        {b"hrsa.evidence": said.encode()}), file)


@pytest.mark.parametrize(("change", "said"), [
    ({"rows": lambda table: table.assign(value=table["value"].where(table.index != 3, 0.123))}, "with hash .*, got "),
    ({"rows": lambda table: table.iloc[:-1]}, "with hash .*, got "),
    ({"rows": lambda table: table.iloc[::-1]}, "with hash .*, got "),
    ({"rows": lambda table: table.assign(query=table["query"] + "x")}, "changed or damaged; copy it again"),
    ({"meta": lambda said: said | {"source": "another"}}, "with hash .*, got "),
    ({"meta": lambda said: said | {"families": {}}}, "with hash .*, got "),
    ({"meta": lambda said: {k: v for k, v in said.items() if k != "hash"}}, "with hash no hash, got "),
    ({"meta": lambda said: {}}, "got none or another kind of source, profile"),
    ({"meta": lambda said: []}, "got none or another kind of source, profile"),
    ({"meta": lambda said: said | {"fingerprint": "x"}}, "another kind of fingerprint: write"),
    ({"rows": lambda table: table.assign(value="0.5")}, "expected finite numbers .*, got '0.5' in row 0"),
    ({"rows": lambda table: table.assign(value=table["value"] * 100)}, "scores on 0..1 .*, the mean over its queries"),
    ({"rows": lambda table: table.assign(value=table["value"].where(table.index != 2))}, "got 'nan' in row 2"),
    ({"rows": lambda table: table.assign(value=table["value"].where(table.index != 2, np.inf))}, "got 'inf' in row 2"),
    ({"rows": lambda table: table.drop(columns="task")}, "expected columns"),
    ({"rows": lambda table: table.assign(task=[task.encode() for task in table["task"]])}, "text in column task"),
])
def test_evidence_that_was_changed_is_refused(shared, change, said):
    file, *_ = shared
    rewritten(file)
    evidence.read_evidence(file)
    rewritten(file, **change)
    with pytest.raises(ValueError, match=said) as refused:
        evidence.read_evidence(file)
    assert str(file) in str(refused.value)


def test_no_flipped_bit_and_no_cut_of_evidence_is_read_as_something_else(shared, rng):
    file, table, meta = shared
    content = file.read_bytes()
    refused = 0
    for place in rng.integers(8 * len(content), size=300):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        try:
            read, said = evidence.read_evidence(file)
        except ValueError as error:
            assert str(file) in str(error)
            refused += 1
        else:  # a bit that says nothing, such as the name of the library that wrote the file
            pd.testing.assert_frame_equal(read, table, check_exact=True, check_dtype=False)
            assert said == meta
    assert refused > 150
    for size in (0, 4, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"expected an evidence file in .*copy it again"):
            evidence.read_evidence(file)


def test_evidence_of_before_the_hash_counts_where_a_record_names_its_bytes(shared):
    file, table, _ = shared
    rewritten(file, meta=lambda said: {key: value for key, value in said.items() if key != "hash"})
    store.write_json(file.with_name("record.json"), {"sha256": {"one": store.file_hash(file)}})
    pd.testing.assert_frame_equal(evidence.read_evidence(file)[0], table)
    store.write_json(file.with_name("record.json"), {"sha256": {"one": "0" * 64}})
    with pytest.raises(ValueError, match="with hash no hash"):
        evidence.read_evidence(file)
    for committed in results.RESULTS.glob("*/scores.parquet"):
        assert len(evidence.read_evidence(committed)[0])


def test_a_later_change_of_the_statement_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path)
    smoke = load_profile("smoke")
    assert len(statement.record_statement(smoke)) == 1
    assert statement.statement_changes(statement.record_statement(smoke)) == []
    changed = smoke.model_copy(update={"verdict": smoke.verdict.model_copy(update={"margin": 0.05})})
    told = statement.record_statement(changed)
    assert len(told) == 2 and told[0]["hash"] != told[1]["hash"]
    changes = statement.statement_changes(told)
    assert len(changes) == 1 and changes[0][:3] == ("margin", 0.02, 0.05)
    assert all(one["written"] <= other["written"] for one, other in pairwise(told))


def test_sentences_follow_the_verdicts(rng):
    same, other = (score_verdicts(scores(rng, shift), FAMILIES, [PAIR], (0, 1, 2), 0.05, resamples=400)
                   for shift in (0.0, 0.4))
    assert "score the same within the margin" in verdict.verdict_lines(same)
    assert "**different**" in verdict.verdict_lines(other) and "score the same" not in verdict.verdict_lines(other)
    assert "every family gets the overall verdict" in verdict.families_agree(same.assign(verdict="equivalent"))
    mixed = same.assign(verdict=["equivalent", "different", "equivalent"])
    assert "retrieval is different" in verdict.families_agree(mixed)
    lost = score_verdicts(scores(rng), FAMILIES, [PAIR], (0, 1, 2), 1e-5, resamples=400)
    lost = lost[lost["verdict"] == "inconclusive"].assign(family="all")
    assert "smallest that they could have proved" in verdict.verdict_lines(lost)


def test_headline_counts_outcomes(rng):
    fits = score_verdicts(scores(rng), FAMILIES, [PAIR], (0, 1, 2), 0.05, resamples=400)
    none = pd.DataFrame(columns=["control", "expects", "outcome"])
    told = verdict.headline(all_claims(score_claims(fits), similarity_claims(similar())), none)
    assert "0 fail" in told and "for base-vs-rlvr it holds" in told and "No positive control was run" in told
    broken = similarity_claims(similar({("RLVR", "backbones", "knn"): (0.0, 0.01)}))
    assert "0 fail" not in verdict.headline(all_claims(score_claims(fits), broken), none)
    with pytest.raises(ValueError, match="got none"):
        all_claims(pd.DataFrame(), pd.DataFrame())


def test_statement_sentence():
    smoke = load_profile("smoke")
    stated = [{**statement.statement(smoke), "written": "2026-01-01T00:00:00Z"}]
    assert "before the first score" in verdict.statement_sentence(stated, True, [])
    late = verdict.statement_sentence(stated, False, [("margin", 0.02, 0.05, "2026-01-02")])
    assert "**after the first score" in late and "margin: 0.02 became 0.05 on 2026-01-02." in late


def test_sources_and_plans(rng):
    pairs, seeds = [PAIR], (0, 1, 2)
    parts = error_shares(scores(rng), pairs, seeds)
    assert parts["share"].sum() == pytest.approx(1)
    assert "base-vs-rlvr: most of the error" in verdict.error_sentences(parts)
    variances = score_variances(scores(rng), pairs, seeds)
    assert set(variances["of"]) == {"items", "mean"} and (variances.groupby(["pair", "of"]).size() == 6).all()
    whole = variances[variances["of"] == "items"].set_index("part")["value"]
    assert whole["both"] == pytest.approx(1e-4, rel=0.2)  # the noise of each run, standard deviation .01
    planned = plans(scores(rng), pairs, seeds, 0.02, 0.05, ([2, 3], [50]), None)
    assert list(planned["seeds"]) == [2, 3] and set(planned["pair"]) == {"base-vs-rlvr"}
    others = other_analyses(scores(rng), pairs, seeds, 0.05, resamples=400)
    judged = score_verdicts(scores(rng), FAMILIES, pairs, seeds, 0.05, resamples=400).assign(verdict="equivalent")
    assert "every analysis says" in verdict.analyses_agree(others.assign(verdict="equivalent"), judged)
    others.loc[1, "verdict"] = "different"
    assert "say otherwise" in verdict.analyses_agree(others, judged)


def test_published_sentences():
    told = paper.published_scores_said(published.reanalyse(1.0))
    assert "R1-Distill-1.5B ProRL on BRIGHT" in told and "12 of 12 cells" in told
    noise = published.reanalyse(1.0).assign(verdict="inconclusive")
    assert "none differs" in paper.published_scores_said(noise)
    assert "1 of 4 on CoT" in paper.realignment_counted(published.rises_in_entropy())


def test_committed_simulation_bears_the_rule_out(tmp_path, monkeypatch):
    table, record = read_committed("verdict_simulation")
    assert record["settings"]["repeats"] >= 1000 and "keeps its promise" in verdict.simulation_sentence(table)
    naive = table[table["uninformative"].isna()].groupby("method")["false_equivalence"].max()
    floor = table[table["uninformative"].notna() & table["scenario"].str.startswith("floor")]
    assert len(floor) >= 6 and (floor["uninformative"] >= 0.94).all() and (floor["false_equivalence"] < 0.02).all()
    assert "The gate holds" in verdict.gate_sentence(table)
    assert "does not hold" in verdict.gate_sentence(table.assign(uninformative=table["uninformative"] - 0.1))
    assert naive["p > .05"] > 0.3 and naive["pooled queries"] > 0.1
    assert table["limit"].any() and "has no warranty" in verdict.simulation_sentence(table)
    assert "breaks its promise" in verdict.simulation_sentence(table.assign(false_equivalence=0.2))
    assert "as it is now" in verdict.simulation_origin(record, record["code"])
    assert "run the command again" in verdict.simulation_origin(record, "another")
    folder = tmp_path / "data" / "results"
    folder.mkdir(parents=True)
    for suffix in ("parquet", "json"):
        source = store.ROOT / "data" / "results" / f"verdict_simulation.{suffix}"
        (folder / source.name).write_bytes(source.read_bytes())
    table.assign(power_at_zero=1.0).to_parquet(folder / "verdict_simulation.parquet")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="restore it"):
        read_committed("verdict_simulation")
