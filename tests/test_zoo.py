"""The zoo: problems, tokenizer, pretraining that resumes to the bit, measures by hand, and one micro trio for real."""

import copy
import json
import re
import shutil
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hrsa.models import language_model, resolve
from hrsa.models.zoo import corpus, measure, pretrain, ship
from hrsa.models.zoo.forms import Plain
from hrsa.models.zoo.grpo import exact_reward, train_rounds
from hrsa.models.zoo.make import make_backbone, settings_of
from hrsa.models.zoo.problems import Problem, draw, is_correct, is_worked, problem_documents, split_of, stream
from hrsa.models.zoo.sft import cka_distance, train_sft
from hrsa.report.prose import backbones
from hrsa.study import runtime, store
from hrsa.study.profile import Profile, Zoo, load_profile
from hrsa.study.sections import Geometry

MICRO = {"vocab_size": 310, "hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 48,
         "context": 96, "pretrain_steps": 6, "pretrain_batch": 4, "pretrain_length": 32, "grpo_steps": 1,
         "grpo_prompts": 2, "grpo_completions": 2, "completion_tokens": 6, "grpo_rounds": 2,
         "grpo_beta": 0.01, "cpt_steps": 2, "sft_steps": 2, "sft_batch": 4,
         "problems_held_out": 10}
TEXTS = [f"The {colour} {animal} of {number} years sleeps under the old bridge, and nobody wakes it."
         for colour in ("red", "blue", "grey", "white") for animal in ("cat", "dog", "owl")
         for number in range(90, 110)]


@pytest.fixture(scope="module")
def tokenizer():
    return corpus.train_tokenizer(TEXTS, Zoo(**MICRO))


@pytest.fixture
def micro(tmp_path, monkeypatch):
    """A profile with a micro trio, its artefacts under a temporary folder, its real text from this file."""
    monkeypatch.setattr(store, "RUNS", tmp_path)
    monkeypatch.setattr("hrsa.texts.pretraining.read_pretraining_text", lambda: (TEXTS[12:], TEXTS[:12]))
    return Profile.model_validate({
        "name": "micro", "title": "micro", "seeds": [0], "pairs": [], "zoo": MICRO, "backbones": [
            {"name": "base", "source": "zoo", "arm": "base"},
            {"name": "rlvr", "source": "zoo", "arm": "rlvr", "start": "base"},
            {"name": "sft", "source": "zoo", "arm": "sft", "start": "base"},
            {"name": "cpt", "source": "zoo", "arm": "cpt", "start": "base"},
            {"name": "long", "source": "zoo", "arm": "rlvr-long", "start": "base"},
            {"name": "other", "source": "zoo", "arm": "base", "seed": 1}]})


def test_worked_solutions_by_hand():
    assert Problem("4-1-7", "-4").worked == "<think>3-7=-4</think>-4"
    assert Problem("1-5-2+0", "-6").worked == "<think>-4-2+0=-6+0=-6</think>-6"
    assert Problem("9-0+9", "18").worked == "<think>9+9=18</think>18"
    assert Problem("4-1-7", "-4").prompt == "Calculate 4-1-7:\n"
    assert Problem("2*3-4+1", "3").worked == "<think>6-4+1=2+1=3</think>3"
    assert Problem("1-9*9", "-80").worked == "<think>1-81=-80</think>-80"


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_answers_of_the_source_agree_with_the_problems(split, rng):
    zoo = Zoo(families=("sums", "products"), seed=int(rng.integers(2**31)))
    problems = list(islice(stream(split, "test", zoo), 100))
    assert [p.family for p in problems[:4]] == ["sums", "products"] * 2
    for problem in problems:
        assert eval(problem.expression) == int(problem.answer)
        assert problem.worked.endswith(f"{problem.answer}</think>{problem.answer}")
        assert is_correct(problem.worked, problem.answer) and is_worked(problem.worked)
        assert "".join(problem.terms) == problem.expression and len(re.findall(r"\d", problem.expression)) in (3, 4)
        for step in re.split("[<>=]", problem.worked)[2:-2]:
            assert eval(step) == int(problem.answer)


def test_asked_problems_may_be_longer_than_those_of_the_text(rng):
    zoo = Zoo(terms=(3, 4), asked=(5, 6), seed=int(rng.integers(2**31)))
    assert {len(p.terms) for p in islice(stream("train", "test", zoo), 60)} == {5, 6}
    assert {len(p.terms) for p in islice(stream("train", "test", zoo, zoo.terms), 60)} == {3, 4}


def test_splits_are_disjoint_whatever_the_order_of_terms(rng):
    first, second = (Zoo(families=("sums", "products"), seed=int(s)) for s in rng.integers(2**31, size=2))
    held = draw("held-out", 150, "test", first)
    train = list(islice(stream("train", "test", second), 2000))
    assert len({p.expression for p in held}) == 150
    for problem in held:
        terms = [re.sub(r"(\d)\*(\d)", r"\2*\1", term if term[0] in "+-" else f"+{term}") for term in problem.terms]
        assert split_of("".join(terms[i] for i in rng.permutation(len(terms)))) == "held-out"
    values = [{tuple(sorted(str(eval(term)) + "*" * term.count("*") for term in p.terms)) for p in problems
               if p.family == "sums"} for problems in (held, train)]
    assert not values[0] & values[1]


def test_streams_repeat_by_seed_and_differ_by_purpose():
    first = list(islice(stream("train", "sft", Zoo(seed=3)), 30))
    assert first == list(islice(stream("train", "sft", Zoo(seed=3)), 30))
    assert first != list(islice(stream("train", "grpo", Zoo(seed=3)), 30))
    assert first != list(islice(stream("train", "sft", Zoo(seed=4)), 30))


@pytest.mark.parametrize(("completion", "answer", "right"), [
    ("-4", "-4", True), (" -4\n", "-4", True), ("4", "-4", False), ("-4-4", "-4", False), ("-4 5", "-4", False),
    ("", "0", False), ("<think>1-5=-4</think>-4", "-4", True), ("<think></think>-4", "-4", True),
    ("<think>1-5=9</think>-4", "-4", True), ("<think>1-5=-4", "-4", False), ("<think>-4</think>", "-4", False),
    ("<think>1</think>2</think>-4", "-4", False), ("x<think>1</think>-4", "-4", False), ("04", "4", False),
])
def test_reward_by_hand(completion, answer, right):
    assert is_correct(completion, answer) is right
    assert exact_reward([completion, "no"], [answer, answer]) == [float(right), 0.0]


def test_half_of_the_documents_are_worked(rng):
    texts = problem_documents(400, stream("train", "test", Zoo()), Zoo(), rng)
    assert 140 < sum("<think>" in text for text in texts) < 260
    assert not any("<think>" in text for text in problem_documents(50, stream("train", "test", Zoo()),
                                                                   Zoo(worked_documents=0), rng))
    assert all(text.startswith("Calculate ") for text in texts)


def test_tokenizer_digits_signs_and_tags(tokenizer, rng, tmp_path):
    assert len(tokenizer) == MICRO["vocab_size"]
    number = "".join(map(str, rng.integers(0, 10, 12)))
    assert tokenizer.tokenize(number) == list(number)
    problem = Problem("4-1-7", "-4")
    tokens = tokenizer.tokenize(problem.prompt + problem.worked)
    assert tokens[-10:] == ["<think>", *"3-7=-4", "</think>", "-", "4"]
    prompt, solution = (tokenizer(text)["input_ids"] for text in (problem.prompt, problem.worked))
    assert tokenizer(problem.prompt + problem.worked)["input_ids"] == prompt + solution
    text = TEXTS[int(rng.integers(len(TEXTS)))] + " é 漢 \t<think>7</think>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    pretrain.new_model(Zoo(**MICRO), tokenizer).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == ids
    assert (again.pad_token, again.eos_token, again.model_max_length) == ("<pad>", "<end>", MICRO["context"])


def test_packing_is_what_the_documents_say(tokenizer):
    zoo = Zoo(**MICRO)
    rows = corpus.pack(TEXTS, tokenizer, zoo)
    assert rows.shape == (24, 32)
    assert np.array_equal(rows, corpus.pack(TEXTS, tokenizer, zoo))
    assert not np.array_equal(rows, corpus.pack(TEXTS, tokenizer, Zoo(**MICRO | {"seed": 1})))
    whole = tokenizer.decode(rows.flatten()).split("<end>")[:-1]
    assert all(text in TEXTS or text.startswith("Calculate ") for text in whole)
    assert {text.startswith("Calculate ") for text in whole} == {True, False}
    for share in (0.2, 0.7):
        rows = corpus.pack(TEXTS, tokenizer, Zoo(**MICRO | {"worked_share": share, "pretrain_steps": 300}))
        whole = tokenizer.decode(rows.flatten()).split("<end>")[:-1]
        sums = [text for text in whole if text.startswith("Calculate ")]
        tokens = [sum(len(ids) + 1 for ids in tokenizer(part)["input_ids"]) for part in (sums, whole)]
        assert tokens[0] / tokens[1] == pytest.approx(share, abs=0.03)
    with pytest.raises(ValueError, match="expected real documents"):
        corpus.pack([], tokenizer, zoo)


def test_a_vocabulary_the_texts_cannot_fill_is_refused():
    with pytest.raises(ValueError, match=rf"expected texts that give {Zoo().vocab_size} tokens, got \d+"):
        corpus.train_tokenizer(TEXTS, Zoo())


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_pretraining_resumes_to_the_bit(stop, tokenizer, tmp_path):
    zoo = Zoo(**MICRO)
    whole, curve = pretrain.pretrain(zoo, TEXTS, tokenizer, tmp_path / "whole", every=2)
    pretrain.pretrain(zoo, TEXTS, tokenizer, tmp_path / "cut", every=2, stop=stop)
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file() == (stop >= 2)
    resumed, again = pretrain.pretrain(zoo, TEXTS, tokenizer, tmp_path / "cut", every=2)
    pd.testing.assert_frame_equal(curve, again, check_exact=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    losses = curve["value"][curve["quantity"] == "loss"].to_numpy()
    assert losses[-1] < losses[0]


def test_documents_of_a_row_do_not_see_each_other(tokenizer, rng):
    model = pretrain.new_model(Zoo(**MICRO), tokenizer).eval()
    end = tokenizer.eos_token_id
    first, second = (rng.integers(10, 300, n).tolist() for n in (5, 7))
    row = torch.tensor([[*first, end, *second, end, 11]])
    where = pretrain.document_positions(row, end)
    assert where.tolist() == [[*range(6), *range(8), 0]]
    packed = model(input_ids=row, position_ids=where, use_cache=False).logits
    alone = model(input_ids=torch.tensor([[*second, end]])).logits
    torch.testing.assert_close(packed[:, 6:14], alone, rtol=1e-4, atol=1e-5)


def test_learning_rate_warms_up_and_falls():
    zoo = Zoo(pretrain_steps=100, pretrain_lr=1.0)
    rates = [pretrain.learning_rate(step, zoo) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == rates[4] == pytest.approx(1.0)
    assert np.all(np.diff(rates[5:]) < 0) and 0.1 <= rates[-1] < 0.102


def test_proportions_and_differences_by_hand():
    share = measure.proportion([True] * 5 + [False] * 5)
    assert (share["value"], share["n"]) == (0.5, 10)
    assert (share["low"], share["high"]) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert measure.proportion([]) == {"value": None, "low": None, "high": None, "n": 0}
    after, before = [True] * 8 + [False] * 2, [True] * 3 + [False] * 6 + [True]
    difference = measure.paired_difference(after, before)  # 5 gained, 1 lost, of 10
    spread = 1.959964 * np.sqrt(7 - 4**2 / 12) / 12
    assert difference["value"] == pytest.approx(0.4)
    assert (difference["low"], difference["high"]) == pytest.approx((4 / 12 - spread, 4 / 12 + spread))
    with pytest.raises(ValueError, match="same problems"):
        measure.paired_difference([True], [True, False])


def test_divergence_perplexity_and_weight_change_by_hand(tokenizer, rng):
    zoo = Zoo(**MICRO)
    first = pretrain.new_model(zoo, tokenizer).eval()
    second = pretrain.new_model(Zoo(**MICRO | {"seed": int(rng.integers(1, 2**31))}), tokenizer).eval()
    problems = draw("held-out", 3, "test", Zoo())
    ids = [[5, 6, 7], [8], [9, 10]]
    total = 0.0
    for problem, completion in zip(problems, ids, strict=True):
        prompt = tokenizer(problem.prompt)["input_ids"]
        row = torch.tensor([prompt + completion])
        own, other = (m(input_ids=row).logits[0].double().log_softmax(-1) for m in (first, second))
        places = slice(len(prompt) - 1, len(prompt) + len(completion) - 1)
        total += (own.exp() * (own - other)).sum(-1)[places].sum().item()
    result = measure.divergence(first, second, Plain(tokenizer), problems, ids)
    assert result["tokens"] == 6 and result["value"] == pytest.approx(total / 6, rel=1e-4)
    assert measure.divergence(first, first, Plain(tokenizer), problems, ids)["value"] == 0
    rows = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in TEXTS[:5]]
    losses = [first(input_ids=torch.tensor([r]), labels=torch.tensor([r])).loss.item() * (len(r) - 1) for r in rows]
    found = measure.perplexity(first, tokenizer, TEXTS[:5])
    assert found["tokens"] == sum(len(r) - 1 for r in rows) and found["documents"] == 5
    assert found["value"] == pytest.approx(np.exp(sum(losses) / found["tokens"]), rel=1e-4)
    with torch.no_grad():
        second.load_state_dict(first.state_dict())
        for parameter in second.model.layers[1].parameters():
            parameter.mul_(1.5)
    rows = {row["layer"]: row for row in measure.weight_change(second, first)}
    change = {layer: row["value"] for layer, row in rows.items()}
    assert change == pytest.approx({"embedding": 0, "1": 0, "2": 0.5, "final norm": 0})
    assert rows["1"]["effective_rank"] is None and 0.3 < rows["2"]["effective_rank"] < 1


def test_effective_rank_by_hand(rng):
    assert measure.effective_rank(torch.eye(5, 7)) == pytest.approx(5)
    column = torch.from_numpy(rng.standard_normal((6, 1)))
    assert measure.effective_rank(column @ column.T) == pytest.approx(1, abs=1e-6)
    shares = np.array([0.75, 0.25])
    assert measure.effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0.0]))) == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum()))


def test_completions_are_seeded_and_end_at_the_end(tokenizer):
    model = pretrain.new_model(Zoo(**MICRO), tokenizer).eval()
    problems = draw("held-out", 6, "test", Zoo())
    state = torch.get_rng_state()
    table, ids = measure.complete(model, Plain(tokenizer), problems, "sampled", 5, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert list(table.columns) == ["problem", "family", "answer", "mode", "completion", "correct", "worked"]
    assert measure.complete(model, Plain(tokenizer), problems, "sampled", 5, seed=1)[1] == ids
    assert measure.complete(model, Plain(tokenizer), problems, "sampled", 5, seed=2)[1] != ids
    assert all(len(row) <= 5 and tokenizer.eos_token_id not in row[:-1] for row in ids)
    one = torch.tensor([tokenizer(problems[3].prompt)["input_ids"]])
    greedy = measure.complete(model, Plain(tokenizer), problems, "greedy", 1, seed=0)[1]
    assert greedy[3] == [int(model(input_ids=one).logits[0, -1].argmax())]


def test_a_micro_trio_is_made_for_real(micro, capfd):
    folders = {name: make_backbone(micro, name) for name in ("rlvr", "sft", "base", "cpt", "long", "other")}
    shown = capfd.readouterr()
    assert shown.out == "" and "Warning" not in shown.err
    assert make_backbone(micro, "rlvr") == folders["rlvr"]
    assert resolve.make_backbone_folder(micro, "base") == str(folders["base"] / "model")
    weights = {}
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        assert model.dtype == torch.bfloat16
        model.float()
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(folders["base"] / "model").get_vocab()
        language_model.leak_probe(model, tokenizer, "causal")
        weights[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
        card = json.loads((folder / "card.json").read_text())
        table = pd.read_parquet(folder / "problems.parquet")
        assert card["parameters"] == model.num_parameters() == len(weights[name])
        assert table.groupby("mode")["correct"].mean().to_dict() == {
            mode: card["accuracy"][mode]["value"] for mode in ("greedy", "sampled")}
        assert (card["compared_with"] is None) == (card["kl"] is None) == (name == "base")
        assert all(split_of(problem) == "held-out" for problem in table["problem"])
        assert card["hashes"]["model.safetensors"] == store.file_hash(folder / "model" / "model.safetensors")
        assert {"loss", "learning rate"} <= set(pd.read_parquet(folder / "curve.parquet")["quantity"])
    assert "reward" in set(pd.read_parquet(folders["rlvr"] / "curve.parquet")["quantity"])
    assert not torch.equal(weights["base"], weights["sft"]) and not torch.equal(weights["base"], weights["other"])
    steps = pd.read_parquet(folders["long"] / "curve.parquet").query("quantity == 'reward'")["step"].tolist()
    assert steps == list(range(1, 1 + MICRO["grpo_steps"] * MICRO["grpo_rounds"]))
    assert not list(folders["base"].parent.glob(".*"))


def test_prolonged_rlvr_goes_on_after_the_last_finished_round(tokenizer, tmp_path):
    zoo = Zoo(**MICRO)
    pretrain.new_model(zoo, tokenizer).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    runtime.prepare(1, 0)
    whole, _, curve = train_rounds(tmp_path / "start", zoo, tmp_path / "work", 2)
    shutil.rmtree(tmp_path / "work" / "round-1")
    resumed, _, again = train_rounds(tmp_path / "start", zoo, tmp_path / "work", 2)
    pd.testing.assert_frame_equal(curve, again, check_exact=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_shipped_backbones_are_what_their_cards_say():
    folders = sorted((store.ROOT / "data" / "backbones").iterdir())
    arms = ("base", "cpt", "rlvr", "rlvr-b", "rlvr-long", "sft", "sft-b", "sft-geometry")
    assert {f"smollm2-{arm}" for arm in arms} == {folder.name for folder in folders}
    for folder in folders:
        card = store.read_json(folder / "card.json")
        files = {name: digest for name, digest in card["hashes"].items() if " " not in name}
        assert {name: store.file_hash(folder / name) for name in files} == files, folder.name
        *_, study, name = card["made"]["command"].split()
        profile = load_profile(study)
        weights = list(folder.glob("*.safetensors"))
        assert len(weights) == (0 if profile.backbone(name).source == "package" else 1)
        for file in weights:
            assert file.stat().st_size <= ship.LARGEST[file.name]
            pairs = load_file(file)
            assert pairs and all(profile.zoo.lora.r in matrix.shape and matrix.isfinite().all()
                                 for matrix in pairs.values())
        answers = pd.read_parquet(folder / "problems.parquet")
        for mode, share in card["accuracy"].items():
            correct = answers.loc[answers["mode"] == mode, "correct"]
            assert (share["value"], share["n"]) == (correct.mean(), len(correct))
        text = (folder / "README.md").read_text(encoding="utf8")
        assert text == ship.model_card(profile, name, card)


def test_a_setting_makes_only_the_arms_anew_that_it_bears_on(micro):
    def settings(**changed):
        profile = micro.model_copy(update={"zoo": micro.zoo.model_copy(update=changed)})
        return {b.arm: settings_of(profile, b) for b in profile.backbones}

    before = settings()
    for changed, arms in ({"sft_lr": 0.5}, {"sft"}), ({"grpo_rounds": 7}, {"rlvr-long"}), ({"cpt_steps": 9}, {"cpt"}), (
            {"grpo_lr": 0.5}, {"rlvr", "rlvr-long"}), ({"pretrain_lr": 0.5}, {"base", "cpt"}), (
            {"problems_held_out": 11}, set(before)), ({"grpo_kept": (1,)}, set()):
        assert {arm for arm, value in settings(**changed).items() if value != before[arm]} == arms


def test_fine_tuning_of_all_weights_takes_the_penalty(micro, tokenizer, tmp_path):
    zoo = Zoo(**MICRO | {"sft_steps": 8})
    runtime.prepare(1, 0)
    before = pretrain.new_model(zoo, tokenizer)
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])

    def moved(geometry):
        model = copy.deepcopy(before)
        curve = train_sft(model, tokenizer, zoo, tmp_path, geometry)
        states = (m.eval()(input_ids=ids, output_hidden_states=True).hidden_states[1][0] for m in (model, before))
        return cka_distance(*states).item(), curve

    (free, _), (held, curve) = moved(None), moved(Geometry(weight=1000.0, blocks=(1,)))
    assert held < free / 2 and set(curve["quantity"]) == {"loss", "learning rate"}
    content = micro.model_dump(mode="json")
    arm = content["backbones"][2] | {"name": "sft-geometry", "geometry": {"weight": 1000.0, "blocks": [1]}}
    content["backbones"].append(arm)
    content["pairs"] = [{"name": "two", "a": "sft", "b": "sft-geometry", "kind": "other"}]
    profile = Profile.model_validate(content)
    plain, penalised = (settings_of(profile, profile.backbone(name)) for name in ("sft", "sft-geometry"))
    assert penalised == plain | {"geometry": arm["geometry"]}
    content["backbones"][-1]["arm"] = "rlvr"
    with pytest.raises(ValueError, match=r"expected geometry for source zoo and arm sft only, got .*arm=rlvr"):
        Profile.model_validate(content)


def test_only_zoo_backbones_are_made(micro):
    other = {"name": "mine", "source": "folder", "path": "somewhere", "arm": "base"}
    content = micro.model_dump() | {"backbones": [other]}
    with pytest.raises(ValueError, match="expected a backbone of source zoo, or a package without a card, got mine of"):
        make_backbone(Profile.model_validate(content), "mine")


def card_of(start, sampled, greedy, worked, among=None, difference=(0.1, 0.05, 0.15)):
    """A card with the parts that the chapter's sentences are built from."""
    def share(value, width=0.05, n=100):
        return {"value": value, "low": value - width, "high": value + width, "n": n}

    missing = {"value": None, "low": None, "high": None, "n": 0}
    change = dict(zip(("value", "low", "high"), difference, strict=True))
    return {"start": start, "compared_with": start, "accuracy": {"sampled": share(sampled), "greedy": share(greedy)},
            "worked_share": {"sampled": share(worked), "greedy": share(worked)},
            "accuracy_by_mode": {"sampled": {"worked": missing if among is None else share(among, n=60),
                                             "direct": share(0.1, n=40)}},
            "accuracy_difference": start and {"sampled": change, "greedy": change}}


def test_findings_follow_the_intervals():
    base = card_of(None, 0.3, 0.4, 0.5, 0.5)
    cards = {"base": base, "up": card_of("base", 0.5, 0.6, 0.9, 0.8),
             "down": card_of("base", 0.1, 0.2, 0.5, 0.2, (-0.2, -0.3, -0.1)),
             "same": card_of("base", 0.3, 0.4, 0.5, 0.52, (0.01, -0.04, 0.06))}
    text = backbones.findings(cards)
    once = backbones.changes_said(cards).splitlines()
    assert len(once) == 4 and once[0] == text.splitlines()[0]
    assert once[1] == ("- Against its start an arm raises sampled accuracy: `up` +10.0% [+5.0%, +15.0%]; lowers "
                       "sampled accuracy: `down` -20.0% [-30.0%, -10.0%]; does not measurably change sampled "
                       "accuracy: `same` +1.0% [-4.0%, +6.0%].")
    assert once[3] == "- Among worked answers: more are right: `up`; fewer are right: `down`; open: `same`."
    assert len(backbones.changes_said({"base": base}).splitlines()) == 1
    lines = text.splitlines()
    assert len(lines) == 4 and "leaves RLVR right answers to reward" in lines[0]
    assert "raises sampled accuracy (+10.0% [+5.0%, +15.0%])" in lines[1] and "also works better" in lines[1]
    assert "lowers sampled accuracy" in lines[2] and "its working got worse" in lines[2]
    assert "does not measurably change greedy" in lines[3] and "is open" in lines[3]
    assert "so little" in backbones.findings({"weak": card_of(None, 0.03, 0.1, 0.5)})
    assert "so much" in backbones.findings({"strong": card_of(None, 0.8, 0.9, 0.5)})
    said = backbones.findings({"base": base, "mute": card_of("base", 0.3, 0.4, 0.0)})
    assert "Among worked" not in said.splitlines()[1]
    ways = backbones.ways({"base": base, "mute": card_of("base", 0.3, 0.4, 0.0)})
    assert ways[["backbone", "way", "share"]].to_numpy().tolist() == [
        ["base", "worked", 0.6], ["base", "direct", 0.4], ["mute", "direct", 1.0]]


def test_a_profile_without_zoo_backbones_has_no_cards(micro):
    other = {"name": "mine", "source": "folder", "path": "somewhere", "arm": "base"}
    with pytest.raises(ValueError, match="expected backbones with a card in profile micro"):
        backbones.make_cards(Profile.model_validate(micro.model_dump() | {"backbones": [other]}))
