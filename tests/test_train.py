"""Training: batches, pooling, export, resume after SIGKILL, fingerprints, switches and errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import tiny_backbone, tiny_tokenizer
from transformers import AutoTokenizer, Qwen2Tokenizer

from hrsa.evaluation import evaluate
from hrsa.models.embedder import assemble, exact_prompts, prompt_tokens
from hrsa.models.language_model import leak_probe
from hrsa.report.prose import scores
from hrsa.report.prose.training import chance_loss, cut_counts, loss_sentence, masked, masked_sentence, nearest
from hrsa.study import store
from hrsa.study.profile import Profile, Recipe
from hrsa.study.runtime import prepare
from hrsa.texts.suite import query_prompt
from hrsa.training.batches import check_triples, draw_batches
from hrsa.training.fingerprint import same_recipe
from hrsa.training.train import make_fingerprints, make_model, make_weights_key, train_embedder, train_on_triples
from hrsa.training.trainer import CURVE, newest_checkpoint

SIZES = {"stones": 40, "rivers": 20, "moons": 12}
STEPS, BATCH = 8, 4


def triples_table(seed=0):
    chance = np.random.default_rng(seed)
    words = ["stone", "river", "paper", "of", "a", "seven", "moon", "green", "to", "wander"]

    def text(longest):
        return " ".join(chance.choice(words, size=chance.integers(1, longest)))

    rows = [{"task": task, "instruction": f"find the {task}", "query": text(6), "positive": text(30),
             "negatives": [text(30) for _ in range(3)]} for task, size in SIZES.items() for _ in range(size)]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed, ignore_index=True)


def recipe(**change):
    return Recipe(**{"batch_size": BATCH, "steps": STEPS, "hard_negatives": 2, "learning_rate": 1e-3, "max_length": 48,
                     "precision": "fp32", "gradient_checkpointing": False, "chunk_tokens": 400, "checkpoints": (3,),
                     "warmup_ratio": 0.25, **change})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    prepare(1, 0)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return [str(tiny_backbone(folder / name, seed)) for seed, name in enumerate(("a", "b"))]


def run(backbone, folder, seed=0, triples=None, **change):
    folder.mkdir(parents=True, exist_ok=True)
    table = triples_table() if triples is None else triples
    return train_on_triples(backbone, Path(backbone).name, table, recipe(**change), seed, folder, folder / "work",
                            "test")


@pytest.fixture(scope="module")
def trained(backbones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, run(backbones[0], folder)


def weights(folder):
    return SentenceTransformer(str(folder), device="cpu").state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- batches


def test_batches_are_of_one_group_and_pure(rng):
    groups = rng.choice(["x", "y", "z"], size=200, p=[0.6, 0.3, 0.1])
    seed = int(rng.integers(1000))
    batches = draw_batches(groups, 4, 30, seed)
    assert batches.shape == (30, 4) and all(len(set(groups[rows])) == 1 for rows in batches)
    assert np.array_equal(batches, draw_batches(groups.copy(), 4, 30, seed))
    other = draw_batches(groups, 4, 30, seed + 1)
    assert not np.array_equal(batches, other)
    assert {tuple(sorted(rows)) for rows in batches} != {tuple(sorted(rows)) for rows in other}


def test_a_pass_takes_groups_by_size_and_no_triple_twice():
    groups = np.array(["x"] * 41 + ["y"] * 20 + ["z"] * 7)
    batches = draw_batches(groups, 4, 16, 0)  # 10 + 5 + 1 batches make a pass
    first = batches.ravel()
    assert len(set(first)) == len(first)
    assert [sum(groups[rows[0]] == name for rows in batches) for name in "xyz"] == [10, 5, 1]
    left = [set(np.flatnonzero(groups == "z")) - set(rows) for seed in range(20)
            for rows in draw_batches(groups, 4, 16, seed) if groups[rows[0]] == "z"]
    assert set.union(*left) == set(np.flatnonzero(groups == "z"))  # what a pass leaves out changes


def test_too_few_triples():
    with pytest.raises(ValueError, match=r"batch_size=4 triples of every task, got \{'y': 3\}"):
        draw_batches(np.array(["x"] * 9 + ["y"] * 3), 4, 2, 0)
    with pytest.raises(ValueError, match="no triples"):
        draw_batches(np.array([], dtype=str), 4, 2, 0)


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.drop(columns="positive"), r"add \['positive'\]"),
    (lambda t: t.assign(query=t["query"].where(t.index != 5, "  ")), "1 empty ones, first in row 5"),
    (lambda t: t.assign(negatives=[n[:1] if i == 7 else n for i, n in enumerate(t["negatives"])]),
     "fewer in 1 of 72 rows"),
])
def test_unfit_triples(change, message):
    with pytest.raises(ValueError, match=message):
        check_triples(change(triples_table()), 2)


# --- pooling


def test_pooling_leaves_out_the_instruction_and_nothing_else(backbones, rng):
    prompt = query_prompt("find the stones")
    model = assemble(backbones[0], "bidirectional", 48, {"stones": prompt})
    for text in ("moon", "a green stone", "wander to seven rivers "):
        ids = model.tokenizer(prompt + text)["input_ids"]
        coded = model.tokenizer(text.rstrip() if prompt.endswith("\n") else " " + text.rstrip())["input_ids"]
        assert ids[-len(coded):] == coded  # the query's own tokens, its first word among them
        with torch.no_grad():
            states = model[0].model(torch.tensor([ids])).last_hidden_state[0]  # (t, d)
        expected = states[-len(coded):].mean(0).numpy()
        got = model.encode([text, "of paper seven moon green to wander"], prompt=prompt, show_progress_bar=False)[0]
        assert np.allclose(got, expected, atol=1e-6)
        with torch.no_grad():
            whole = model[0].model(torch.tensor([model.tokenizer(text)["input_ids"]])).last_hidden_state[0].mean(0)
        assert np.allclose(model.encode(text, show_progress_bar=False), whole, atol=1e-6)


def test_the_last_token_is_the_last_that_is_not_padding(backbones):
    """By hand: states (b=2, t=4, d=2) of 3 and 2 real tokens, padded right and left; the instruction is one token."""
    pool = assemble(backbones[0], "causal", 48, pooling="last")[1]
    right = torch.tensor([[[1.0, 2], [3, 4], [5, 6], [9, 9]], [[7, 8], [0, 1], [9, 9], [9, 9]]])
    left = torch.tensor([[[9.0, 9], [1, 2], [3, 4], [5, 6]], [[9, 9], [9, 9], [7, 8], [0, 1]]])
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    for states, mask in ((right, real), (left, real.flip(1))):
        for prompt in ({}, {"prompt_length": 1}):
            found = pool({"token_embeddings": states, "attention_mask": mask, **prompt})["sentence_embedding"]
            assert found.tolist() == [[5, 6], [0, 1]]


def test_pooling_by_the_last_token_from_training_to_folder(backbones, tmp_path):
    record = run(backbones[0], tmp_path, pooling="last", steps=3, checkpoints=(2,))
    assert record["pooling"]["mode"] == record["recipe"]["pooling"] == "last"
    texts = ["moon", "a green stone", "wander to seven rivers of paper"]
    for part in ("model", "checkpoints/step-000002"):
        assert store.read_json(tmp_path / part / "1_Pooling/config.json")["pooling_mode"] == "lasttoken"
        model = SentenceTransformer(str(tmp_path / part), device="cpu")
        with torch.no_grad():
            alone = [model[0].model(torch.tensor([model.tokenizer(text)["input_ids"]])).last_hidden_state[0, -1]
                     for text in texts]
        for side in ("right", "left"):
            model.tokenizer.padding_side = side
            assert np.allclose(model.encode(texts, show_progress_bar=False), np.stack(alone), atol=1e-5)
    assert "pooling" not in recipe().model_dump(mode="json")  # what was trained before has the key it had


def test_instruction_length_survives_saving_for_a_tokenizer_that_rebuilds_itself(tmp_path):
    backend = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    qwen = Qwen2Tokenizer(vocab=backend["vocab"], merges=[tuple(pair) for pair in backend["merges"]],
                          unk_token="<end>", eos_token="<end>", pad_token="<pad>")
    prompt = query_prompt("find the stones")
    with pytest.raises(ValueError, match="end where a token ends"):
        prompt_tokens(qwen, prompt)
    exact = exact_prompts(qwen)
    exact.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert prompt_tokens(exact, prompt) == prompt_tokens(loaded, prompt)
    for text in ("a green stone", "Moon's river\n  of paper", "über 12 stones"):
        assert loaded(text)["input_ids"] == qwen(text)["input_ids"] == exact(text)["input_ids"]


def test_an_instruction_that_fills_the_limit(backbones):
    with pytest.raises(ValueError, match=r"fewer tokens than max_length=8.*raise recipe.max_length"):
        assemble(backbones[0], "bidirectional", 8, {"x": query_prompt("find the stones")})


def test_more_tokens_than_the_backbone_has_positions_for(backbones):
    with pytest.raises(ValueError, match=r"recipe.max_length of at most the 256 tokens that .* got 300: lower it"):
        assemble(backbones[0], "bidirectional", 300)


# --- a run and its folder


def test_files_and_curve(trained):
    folder, record = trained
    curve = store.read_table(folder / "curve.parquet", CURVE)
    assert curve["step"].tolist() == list(range(1, STEPS + 1)) and curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    rates = curve["learning_rate"].to_numpy()
    assert rates.max() == pytest.approx(1e-3) and rates[0] < rates[1] and (np.diff(rates[2:]) < 0).all()
    assert (curve["duplicates"] > 0).any() and (curve["tokens"] > 0).all() and (curve["seconds"] >= 0).all()
    assert store.read_json(folder / "fingerprint.json") == record
    assert (folder / "checkpoints/step-000003/model.safetensors").is_file()


def test_cut_texts_are_counted_one_by_one(backbones, tmp_path):
    table, limit, steps = triples_table(), 14, 4
    run(backbones[0], tmp_path, steps=steps, max_length=limit, checkpoints=())
    curve = store.read_table(tmp_path / "curve.parquet")
    batches = draw_batches((table["task"] + "\t" + table["instruction"]).to_numpy(dtype=str), BATCH, steps, 0)
    tokenizer = exact_prompts(AutoTokenizer.from_pretrained(backbones[0]))
    for (_, seen), rows in zip(curve.iterrows(), batches, strict=True):
        batch = table.iloc[rows]
        queries = [query_prompt(batch["instruction"].iloc[0]) + text for text in batch["query"]]
        passages = [*batch["positive"], *(text for given in batch["negatives"] for text in given[:2])]
        cut = [sum(len(tokenizer(text)["input_ids"]) > limit for text in texts) for texts in (queries, passages)]
        assert [seen["task"], seen["queries_cut"], seen["passages_cut"]] == [batch["task"].iloc[0], *cut]
    counts = cut_counts(curve, recipe()).set_index("task")
    assert counts["steps"].tolist() == [*curve["task"].value_counts(sort=False), steps]
    assert (counts["passages"] == 3 * counts["queries"]).all() and counts.loc["all tasks", "queries"] == BATCH * steps
    assert counts.loc["all tasks", "passages_cut"] == curve["passages_cut"].sum() > 0 < curve["queries_cut"].sum()


def test_masked_scores_are_told_by_reason(trained, backbones, tmp_path):
    curve = store.read_table(trained[0] / "curve.parquet")
    lines = masked(curve).groupby("reason")["scores"].sum()
    assert lines["duplicate"] == curve["duplicates"].sum() and lines["near positive"] == 0
    assert "sets no `near_positive_margin`" in masked_sentence(curve, recipe())
    run(backbones[0], tmp_path, near_positive_margin=0.0, steps=2, checkpoints=())
    near = store.read_table(tmp_path / "curve.parquet")
    said = masked_sentence(near, recipe(near_positive_margin=0.0))
    assert near["near"].sum() > 0 and f"{near['near'].sum():,} near positives (more than 0 nearer" in said
    assert f"of {2 * BATCH * BATCH * 3:,} scores" in said


def test_the_folder_loads_plainly_and_is_bidirectional(trained, backbones):
    folder, _ = trained
    assert store.read_json(folder / "export.json")["difference"] <= 1e-5
    for part in ("model", "checkpoints/step-000003"):
        model = SentenceTransformer(str(folder / part), device="cpu")
        leak_probe(model[0].model, model.tokenizer, "bidirectional")
        assert model.prompts["stones"] == query_prompt("find the stones") and model.similarity_fn_name == "cosine"
        assert model[1].include_prompt is False and model.max_seq_length == 48
    assert not same(weights(folder / "model"), weights(folder / "checkpoints/step-000003"))
    text = "\n".join(f.read_text() for f in folder.rglob("*.json"))
    assert "/tmp" not in text and backbones[0] not in text and "auto_map" not in text


def test_arms_see_the_same_and_seeds_do_not(trained, backbones, tmp_path):
    _, first = trained
    other = run(backbones[1], tmp_path / "arm", checkpoints=(3,))
    assert other["start"]["weights"] != first["start"]["weights"]
    agreed = same_recipe({"a-s0": first, "b-s0": other})
    assert {"data", "learning_rate", "seed", "recipe.attention", "pooling.include_prompt", "code"} <= set(agreed)
    seed = run(backbones[0], tmp_path / "seed", seed=1)
    assert seed["data"] != first["data"] and seed["start"]["weights"] == first["start"]["weights"]
    with pytest.raises(ValueError, match="got another data in a-s1"):
        same_recipe({"a-s0": first, "a-s1": seed})


def test_a_difference_is_named(trained):
    _, first = trained
    changed = json.loads(json.dumps(first))
    changed["recipe"]["temperature"] = 0.05
    with pytest.raises(ValueError, match=r"another recipe.temperature in b-s0 \(0.05\) than in a-s0 \(0.02\)"):
        same_recipe({"a-s0": first, "b-s0": changed})
    with pytest.raises(ValueError, match="at least one"):
        same_recipe({})


# --- interruption


def test_a_run_killed_while_it_writes_takes_its_own_place_and_no_others(trained, backbones, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "embedder"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hrsa.models.embedder.check_export", die)
        run(backbones[0], folder)
    assert (folder / "model").is_dir() and (folder / "checkpoints").is_dir()
    assert not (folder / "fingerprint.json").exists()
    (folder / "model" / "model.safetensors").write_bytes(b"cut short")
    for _ in range(2):  # the second time it was finished
        assert run(backbones[0], folder) == trained[1]
        assert same(weights(folder / "model"), weights(trained[0] / "model"))
    (tmp_path / "other" / "model").mkdir(parents=True)
    (tmp_path / "other" / "model" / "letters").touch()
    with pytest.raises(ValueError, match=r"expected no model in .*other, but for those of .*give another folder"):
        run(backbones[0], tmp_path / "other")
    assert (tmp_path / "other" / "model" / "letters").exists()


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
from pathlib import Path
import hrsa.training.trainer as trainer
from hrsa.study.runtime import prepare
from test_train import run
where, count, seen = sys.argv[4], int(sys.argv[5]), []
def die(*args, **kwargs):
    seen.append(1)
    if len(seen) == count:
        if where == "save":
            Path(args[1]).write_bytes(b"cut short")
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(*args, **kwargs)
if where == "step":
    kept, trainer._Trainer.log = trainer._Trainer.log, die
else:
    kept, torch.save = torch.save, die
prepare(1, 0)
run(sys.argv[2], Path(sys.argv[3]))
"""


def test_a_killed_run_ends_with_the_same_bits(trained, backbones, tmp_path, rng):
    points = {"step": int(rng.integers(3, STEPS + 1)), "save": int(rng.integers(7, 13))}
    children = {where: subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), backbones[0], str(tmp_path / where), where,
         str(count)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
                for where, count in points.items()}
    expected = store.read_table(trained[0] / "curve.parquet").drop(columns="seconds")
    for where, child in children.items():
        _, errors = child.communicate(timeout=300)
        assert child.returncode == -signal.SIGKILL, errors.decode()[-2000:]
        folder = tmp_path / where
        assert not (folder / "model").exists() and newest_checkpoint(folder / "work") is not None
        record = run(backbones[0], folder)
        assert record == trained[1]
        pd.testing.assert_frame_equal(store.read_table(folder / "curve.parquet").drop(columns="seconds"), expected,
                                      check_exact=True)
        for part in ("model", "checkpoints/step-000003"):
            assert same(weights(folder / part), weights(trained[0] / part))


def test_a_checkpoint_that_was_cut_short_is_not_used(trained, tmp_path):
    whole = newest_checkpoint(trained[0] / "work")
    assert whole.name == f"checkpoint-{STEPS}"
    for name, harm in (("marker", lambda f: (f / "complete.json").unlink()),
                       ("short", lambda f: (f / "optimizer.pt").write_bytes(b"x")),
                       ("gone", lambda f: (f / "scheduler.pt").unlink())):
        shutil.copytree(whole, tmp_path / name / whole.name)
        harm(tmp_path / name / whole.name)
        assert newest_checkpoint(tmp_path / name) is None


# --- switches


def test_causal(backbones, tmp_path):
    run(backbones[0], tmp_path, attention="causal", steps=2, checkpoints=())
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    leak_probe(model[0].model, model.tokenizer, "causal")


def test_the_kernel_of_the_recipe_is_the_one_that_computes(backbones, tmp_path, study):
    for kernel, expected in (("auto", "sdpa"), ("eager", "eager"), ("flash_attention_2", "sdpa")):
        change = study.recipe.model_copy(update={"kernel": kernel})
        made = study.model_copy(update={"recipe": change})
        for model_id, step in (("a", None), ("a-s0", 2)):
            if kernel != "flash_attention_2" or model_id == "a":
                assert make_model(made, model_id, step)[0].model.config._attn_implementation == expected
    assert make_weights_key(study, "a") in make_weights_key(made, "a") and "kernel" not in recipe().model_dump()
    with pytest.raises(ValueError, match="bf16 for the attention kernel flash_attention_2, got fp32"):
        recipe(kernel="flash_attention_2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_flash_attention_without_a_card_is_refused(backbones, tmp_path):
    with pytest.raises(ValueError, match=r"expected FlashAttention 2 for Qwen3Model on cpu, .*recipe.kernel: auto"):
        run(backbones[0], tmp_path, kernel="flash_attention_2", precision="bf16", steps=2, checkpoints=())


def test_lora_trains_linear_layers_and_is_merged(backbones, tmp_path):
    run(backbones[0], tmp_path, lora={"r": 4, "alpha": 8, "dropout": 0.1}, steps=3, checkpoints=(2,),
        learning_rate=1e-2)
    start = assemble(backbones[0], "bidirectional", 48).state_dict()
    final = weights(tmp_path / "model")
    assert final.keys() == start.keys() and not list((tmp_path / "model").rglob("adapter*"))
    moved = {name for name in final if not torch.equal(final[name], start[name])}
    assert moved == {name for name in final if name.endswith("_proj.weight")}
    assert not same(final, weights(tmp_path / "checkpoints/step-000002"))


def test_memory_savers_change_nothing(trained, backbones, tmp_path):
    run(backbones[0], tmp_path, gradient_checkpointing=True)
    a, b = (store.read_table(f / "curve.parquet")["loss"] for f in (trained[0], tmp_path))
    assert np.allclose(a, b, rtol=1e-4)


def test_bf16_is_near(trained, backbones, tmp_path):
    run(backbones[0], tmp_path, precision="bf16", steps=3, checkpoints=())
    a, b = (store.read_table(f / "curve.parquet")["loss"].iloc[0] for f in (trained[0], tmp_path))
    assert a != b and abs(a - b) < 0.2
    assert weights(tmp_path / "model")["0.model.norm.weight"].dtype == torch.float32


def test_errors(backbones, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoints within steps=2, got \[3\]"):
        run(backbones[0], tmp_path, steps=2)
    with pytest.raises(FloatingPointError, match="at step"):
        run(backbones[0], tmp_path, learning_rate=1e30, steps=4, warmup_ratio=0, checkpoints=())


# --- the stage


@pytest.fixture
def study(backbones, tmp_path, monkeypatch):
    """A profile of two folder backbones on a file of pairs, in a tree of its own."""
    for name in ("ROOT", "RUNS", "SUITE"):
        monkeypatch.setattr(store, name, tmp_path / name)
    store.write_json(tmp_path / "SUITE/train/tasks.json", {})
    table = triples_table()
    table = table[table["task"] == "stones"].drop_duplicates("query").drop_duplicates("positive")
    (tmp_path / "ROOT").mkdir()
    table[["instruction", "query", "positive"]].to_json(tmp_path / "ROOT/stones.jsonl", orient="records", lines=True)
    return Profile.model_validate({
        "name": "tiny", "title": "Tiny", "seeds": [0],
        "backbones": [{"name": name, "source": "folder", "path": path, "arm": "base"}
                      for name, path in zip("ab", backbones, strict=True)],
        "pairs": [{"name": "a-vs-b", "a": "a", "b": "b", "kind": "control"}],
        "recipe": recipe(steps=3, checkpoints=(2,)).model_dump(),
        "ablations": [{"name": "causal", "change": {"attention": "causal"}, "backbones": ["a"]},
                      {"name": "last", "change": {"pooling": "last"}, "backbones": ["a"]}],
        "suite": {"train": ["stones.jsonl"], "mining": {"embedder": "bm25"}}})


def test_the_stage(study):
    folder = train_embedder(study, "a-s0")
    assert train_embedder(study, "a-s0") == folder and not store.scratch(folder).exists()
    assert {f.name for f in folder.iterdir()} == {"model", "checkpoints", "curve.parquet", "fingerprint.json",
                                                  "export.json", "provenance.json"}
    other = train_embedder(study, "b-s0")
    causal = train_embedder(study, "a-s0-causal")
    assert make_model(study, "a-s0-last")[1].pooling_mode == "lasttoken"
    assert len({folder, other, causal}) == 3 and set(make_fingerprints(study, "b-s0")) == {"a-s0", "b-s0"}
    assert set(make_fingerprints(study, "a-s0-causal")) == {"a-s0-causal"}
    for model_id, step, attention in (("a", None, "causal"), ("a-s0", 0, "causal"), ("a-s0", 2, "bidirectional"),
                                      ("a-s0", None, "bidirectional"), ("a-s0-causal", None, "causal")):
        model = make_model(study, model_id, step)
        leak_probe(model[0].model, model.tokenizer, attention)
    assert same(make_model(study, "a").state_dict(), make_model(study, "a-s0", 0).state_dict())
    assert not same(make_model(study, "a-s0", 2).state_dict(), make_model(study, "a-s0").state_dict())
    example = nearest(study, "a-s0")
    assert example["what"].tolist() == ["query", "its positive", "nearest passage"]
    assert example["cosine"][2] >= example["cosine"][1]
    for call, message in ((lambda: train_embedder(study, "a"), "got the backbone 'a'"),
                          (lambda: make_model(study, "a-s0", 1), r"one of \[0, 2\], got 1"),
                          (lambda: make_model(study, "a", 2), "step 0 or None")):
        with pytest.raises(ValueError, match=message):
            call()


def sts_task(root):
    """One local evaluation task in the suite under `root`."""
    store.write_json(root / "eval/tasks.json", {"Own": {"family": "sts", "reasoning": False, "instruction": "Compare.",
                                                        "metric": "cosine_spearman"}})
    table = pd.DataFrame({"sentence1": ["a stone", "a river", "paper", "the moon"] * 3,
                          "sentence2": ["stones", "green", "a paper", "wander"] * 3, "score": range(12)})
    store.write_table(root / "eval/Own/test.parquet", table.astype({"score": float}))


def test_evaluation_refuses_an_embedder_whose_switch_is_undone(study):
    sts_task(store.SUITE)
    study = study.model_copy(update={"suite": study.suite.model_copy(update={"tasks": ("Own",)})})
    config = train_embedder(study, "a-s0") / "model/config.json"
    whole = store.read_json(config)
    assert whole["is_causal"] is False
    store.write_json(config, {**whole, "is_causal": True})
    with pytest.raises(RuntimeError, match="expected bidirectional attention"):
        evaluate.evaluate_model(study, "a-s0")
    assert not list(store.RUNS.rglob("evaluation/a-s0-*/*"))
    store.write_json(config, whole)
    assert (evaluate.evaluate_model(study, "a-s0") / "scores.parquet").is_file()
    assert "8 embeddings of 1 model are kept" in scores.kept_sentence(study, ["a-s0"])


def test_scores_with_the_first_dimensions_are_those_of_vectors_cut_by_hand(study):
    sts_task(store.SUITE)
    suite = study.suite.model_copy(update={"tasks": ("Own",)})
    whole = study.model_copy(update={"suite": suite})
    cut = study.model_copy(update={"suite": suite.model_copy(update={"dimensions": (4, 32)})})
    assert evaluate.make_dimension_scores(whole, ["a"]).empty
    assert "dimensions" not in suite.model_dump() and "names no fewer" in scores.by_dimensions(
        whole, *2 * [evaluate.make_dimension_scores(whole, ["a"])])
    found = evaluate.make_dimension_scores(cut, ["a"]).set_index("dimensions")["value"]
    full, _ = evaluate.make_scores(cut, ["a"])
    table = store.read_table(store.SUITE / "eval/Own/test.parquet")
    model = make_model(cut, "a")
    left, right = (model.encode(list(table[side]), prompt=query_prompt("Compare."), show_progress_bar=False)[:, :4]
                   for side in ("sentence1", "sentence2"))
    cosine = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    expected = pd.Series(cosine.round(6)).corr(table["score"], method="spearman")
    assert found[4] == pytest.approx(expected, abs=0.02) and found[32] == pytest.approx(full["value"][0], abs=1e-9)
    assert found[4] != found[32]
    assert "|   all |" in scores.by_dimensions(cut, full, evaluate.make_dimension_scores(cut, ["a"]))
    far = cut.model_copy(update={"suite": suite.model_copy(update={"dimensions": (33,)})})
    with pytest.raises(ValueError, match=r"suite.dimensions of at most the 32 of hrsa/a, got 33"):
        evaluate.evaluate_model(far, "a")


def test_the_first_blocks_of_embedder_and_untrained_backbone_alike(study):
    cut = study.model_copy(update={"recipe": study.recipe.model_copy(update={"layers": 1})})
    for model_id, step in (("a", None), ("a-s0", 0), ("a-s0", 2), ("a-s0", None)):
        assert len(make_model(cut, model_id, step)[0].model.layers) == 1
    assert len(make_model(study, "a")[0].model.layers) == 2
    assert make_weights_key(cut, "a") == f"{make_weights_key(study, 'a')}-first-1"
    last = cut.model_copy(update={"recipe": cut.recipe.model_copy(update={"pooling": "last"})})
    assert make_weights_key(last, "a") == f"{make_weights_key(study, 'a')}-first-1-last"
    assert make_model(last, "a")[1].pooling_mode == "lasttoken"
    assert set(study.recipe.model_dump(mode="json")) == set(cut.recipe.model_dump(mode="json")) - {"layers"}


def test_an_arm_that_differs_stops_the_study(study):
    folder = train_embedder(study, "a-s0")
    record = store.read_json(folder / "fingerprint.json")
    store.write_json(folder / "fingerprint.json", {**record, "data": "another"})
    with pytest.raises(ValueError, match="got another data in a-s0"):
        train_embedder(study, "b-s0")
    assert not list(folder.parent.glob("b-s0-*"))


def test_what_is_said_of_the_loss_depends_on_it():
    assert chance_loss(recipe()) == pytest.approx(np.log(12))
    start, noise = np.linspace(6, 3, 30), np.tile([0.1, -0.1], 5)
    for end, said in ((1.0, "clearly below chance"), (2.4, "not clearly so"), (3.0, "above chance")):
        curve = pd.DataFrame({"loss": [*start, *(end + noise * (8 if end == 2.4 else 1))]})
        text = loss_sentence(curve, recipe())
        assert said in text and f"{end:.2f}" in text and "(2.48)" in text
