"""Scores of several machines: shared, joined, and the verdict that follows."""

import numpy as np
import pandas as pd
import pytest

from hrsa.evaluation.chance import CHANCE
from hrsa.evaluation.evaluate import SCORE_COLUMNS
from hrsa.report.prose import verdict
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.verdict import evidence, paired_scores
from hrsa.verdict.synthesis import score_verdicts
from hrsa.workflow.commands import main

SMOKE = load_profile("smoke")
FAMILIES = {"x": "retrieval", "y": "pair"}
LEVEL = np.linspace(0.2, 0.8, 60)


def scored(rng, seeds):
    """Scores of all arms on two tasks; runs of an arm other than the base lie 0.012 above and below it in turn."""
    rows = []
    for model in SMOKE.models():
        if model.seed == 0 and model.ablation is None:
            for seed in seeds:
                level = LEVEL + (0.012 * (-1) ** seed if model.backbone != "base" else 0)
                rows += [(f"{model.backbone}-s{seed}", task, f"q{i}", value) for task in FAMILIES
                         for i, value in enumerate(level + rng.normal(0, 0.002, 60))]
            rows += [(model.backbone, task, f"q{i}", value) for task in FAMILIES
                     for i, value in enumerate(LEVEL - 0.2 + rng.normal(0, 1e-6, 60))]  # machines round differently
    rows += [(CHANCE, task, "all", 0.1) for task in FAMILIES]
    return pd.DataFrame(rows, columns=paired_scores.QUERY_COLUMNS)


def keep(folder, per_query):
    """Store scores as `evaluate_model` does."""
    for model, rows in per_query.groupby("model"):
        target = folder / "smoke" / ("chance" if model == CHANCE else "evaluation") / f"{model}-{'0' * 12}"
        store.write_table(target / "per_query.parquet", rows)
        store.write_table(target / "scores.parquet", pd.DataFrame(
            [[model, task, family, "m", 0.5] for task, family in FAMILIES.items()], columns=SCORE_COLUMNS))
        store.write_json(target / "provenance.json", {"written": "2026-01-01T00:00:00Z"})


def words(pool):
    table = score_verdicts(pool.per_query, pool.families, SMOKE.pairs, pool.seeds, margin=0.02, resamples=400)
    return table.set_index(["pair", "family"])


def test_more_seeds_from_elsewhere_narrow_the_verdict(rng, tmp_path):
    files = []
    for number, seeds in enumerate([(0, 1), range(2, 12), range(12, 30)]):
        files.append(tmp_path / f"{number}.parquet")
        evidence.write_evidence(files[-1], SMOKE, scored(rng, seeds), f"lab {number}", FAMILIES)
    alone, joined = words(evidence.pool_evidence(SMOKE, files[:1])), words(evidence.pool_evidence(SMOKE, files))
    assert (joined["high"] - joined["low"] < alone["high"] - alone["low"]).all()
    assert (alone["verdict"] == "inconclusive").all() and set(joined.loc[:, "all", :]["verdict"]) == {"equivalent"}
    assert set(joined["seeds"]) == {30} and set(joined.index.get_level_values("family")) == {"all", *FAMILIES.values()}
    pool = evidence.pool_evidence(SMOKE, files)
    assert list(pool.sources["source"]) == ["lab 0", "lab 1", "lab 2"]
    assert pool.sources["models"].tolist() == [6 + 4, 30 + 4, 54 + 4]  # with three untrained backbones and chance
    assert not pool.per_query.duplicated(["model", "task", "query"]).any()
    told = verdict.evidence_sources(pool, SMOKE.seeds)
    assert "3 sources" in told and "Seeds 2, 3" in told and "errs more often" in told
    assert "different states" not in told
    assert "one source" in verdict.evidence_sources(evidence.pool_evidence(SMOKE, files[:1]), SMOKE.seeds)


def test_a_run_joins_with_files_received(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(paired_scores, "make_query_scores", paired_scores.read_query_scores)
    monkeypatch.setattr(evidence, "study_fingerprint", lambda profile: {"verdict": str(profile.verdict.margin)})
    keep(tmp_path / "runs", scored(rng, (0, 1)))
    assert evidence.make_pool(SMOKE).seeds == (0, 1)
    other = tmp_path / "data" / "evidence" / "smoke" / "lab.parquet"
    evidence.write_evidence(other, SMOKE, scored(rng, (2, 3)), "another laboratory", FAMILIES)
    pool = evidence.make_pool(SMOKE)
    assert pool.seeds == (0, 1, 2, 3) and list(pool.sources["source"]) == [evidence.OWN_SOURCE, "another laboratory"]
    wider = SMOKE.model_copy(update={"verdict": SMOKE.verdict.model_copy(update={"margin": 0.5})})
    evidence.write_evidence(other, wider, scored(rng, (2, 3)), "another laboratory", FAMILIES)
    with pytest.raises(ValueError, match="another for verdict"):
        evidence.make_pool(SMOKE)


def test_a_score_is_read_from_parquet_once(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(paired_scores, "make_query_scores", paired_scores.read_query_scores)
    monkeypatch.setattr(evidence, "study_fingerprint", lambda profile: {})
    keep(tmp_path / "runs", scored(rng, (0, 1)))
    other = tmp_path / "data" / "evidence" / "smoke" / "lab.parquet"
    evidence.write_evidence(other, SMOKE, scored(rng, (2, 3)), "another laboratory", FAMILIES)
    seen = []
    for module, name in ((store, "read_table"), (evidence, "read_evidence")):
        monkeypatch.setattr(module, name, counting(getattr(module, name), seen))
    evidence.make_pool(SMOKE)
    chance = tmp_path / "runs" / "smoke" / "chance" / f"chance-{'0' * 12}" / "per_query.parquet"
    assert sorted(seen) == sorted([*(tmp_path / "runs").rglob("evaluation/*/*.parquet"), chance, other])


def counting(read, seen):
    """`read`, which notes the paths that it is called with."""
    def wrapped(path, *args, **kwargs):
        seen.append(path)
        return read(path, *args, **kwargs)
    return wrapped


def test_a_seed_without_both_arms_is_left_out(rng, tmp_path):
    table = scored(rng, (0, 1, 2))
    file = tmp_path / "e.parquet"
    evidence.write_evidence(file, SMOKE, table[table["model"] != "sft-s2"], "here", FAMILIES)
    assert evidence.pool_evidence(SMOKE, [file]).seeds == (0, 1)
    evidence.write_evidence(file, SMOKE, table[~table["model"].str.startswith("sft")], "here", FAMILIES)
    with pytest.raises(ValueError, match="join files that complete a seed"):
        evidence.pool_evidence(SMOKE, [file])


def test_command_line_shares_and_joins(rng, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "RUNS", tmp_path / "runs")
    keep(tmp_path / "runs", scored(rng, (0, 1)))
    assert main(["evidence", "--profile", "smoke", "--share", str(tmp_path / "a.parquet"), "--source", "lab A"]) == 0
    evidence.write_evidence(tmp_path / "b.parquet", SMOKE, scored(rng, (2, 3, 4)), "lab B", FAMILIES)
    capsys.readouterr()
    files = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    assert main(["evidence", "--profile", "smoke", *files]) == 0
    told = capsys.readouterr().out
    assert "lab A" in told and "lab B" in told and "seeds 0, 1, 2, 3, 4" in told and "**base-vs-rlvr**" in told
    assert main(["evidence", "--profile", "mini", "--share", str(tmp_path / "c.parquet")]) == 1
    assert "make book PROFILE=mini" in capsys.readouterr().err
    assert main(["evidence", "--profile", "smoke"]) == 1
    assert "expected either --share FILE or evidence files, got neither" in capsys.readouterr().err


def test_backbones_in_folders_count_by_their_bytes(tmp_path):
    def fingerprint(content):
        (tmp_path / "model.safetensors").write_bytes(content)
        folder = SMOKE.backbones[0].model_copy(update={"source": "folder", "path": str(tmp_path)})
        profile = SMOKE.model_copy(update={"backbones": (folder, *SMOKE.backbones[1:])})
        return evidence.study_fingerprint(profile)["models"]

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    assert fingerprint(b"one") == fingerprint(b"one") != fingerprint(b"two")
