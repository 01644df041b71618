"""Arms as LoRA adapters: shared prompts are whole rows, the chat form by hand, what rewards do, resuming."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_backbone, tiny_tokenizer
from transformers import AutoModelForCausalLM

from hrsa.models import adapters
from hrsa.models.language_model import load_lm
from hrsa.models.zoo import adapter_arms, forms, sft, shared_prefix
from hrsa.models.zoo.problems import Problem, draw, split_of
from hrsa.similarity.cka import linear_cka
from hrsa.study import runtime
from hrsa.study.profile import Zoo
from hrsa.study.sections import Geometry

TEMPLATE = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")
ZOO = Zoo(form="chat", terms=(3, 3), context=64, lora={"r": 4, "alpha": 8, "dropout": 0.0}, completion_tokens=4,
          grpo_steps=12, grpo_prompts=2, grpo_completions=8, grpo_lr=3e-2, grpo_beta=0.01, sft_steps=12, sft_batch=4,
          sft_lr=1e-2)


@pytest.fixture
def chat():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def start(tmp_path, chat):
    folder = tiny_backbone(tmp_path / "start", seed=0)
    chat.save_pretrained(folder)
    runtime.prepare(1, 0)
    return folder


def test_the_chat_form_by_hand(chat):
    form, problem = forms.Chat(chat), Problem("4-7+1", "-2")
    assert chat.decode(form.prompt(problem)) == (
        "<system><end><user>9 - 3 + 2<end><assistant>9 - 3 = 6, 6 + 2 = 8<end><user>4 + 7 - 1<end><assistant>"
        "4 + 7 = 11, 11 - 1 = 10<end><user>8 + 5 + 6<end><assistant>8 + 5 = 13, 13 + 6 = 19<end>"
        "<user>4 - 7 + 1<end><assistant>")
    assert chat.decode(form.solution(problem)) == "4 - 7 = -3, -3 + 1 = -2<end>"
    assert form.is_right(form.solution(problem), problem) and form.is_worked("4 - 7 = -3, -3 + 1 = -2")
    assert not form.is_worked("4 - 7 + 1 = -2")


@pytest.mark.parametrize(("text", "right"), [
    ("-2<end>", True), ("4 - 7 + 1 = -2<end>", True), ("It is -2.<end>", True), ("-2", False), ("2<end>", False),
    ("-2, 5<end>", False), ("-2.5<end>", False), ("no<end>", False), ("<end>", False), ("-20<end>", False)])
def test_the_last_integer_of_an_ended_answer_counts(text, right, chat):
    assert forms.Chat(chat).is_right(chat(text)["input_ids"], Problem("4-7+1", "-2")) is right


def test_a_tokenizer_without_chat_template_is_refused():
    with pytest.raises(ValueError, match=r"expected a tokenizer with a chat template for zoo.form: chat, got none"):
        forms.form_of(ZOO, tiny_tokenizer())


def test_examples_do_not_ask_held_out_problems():
    assert {split_of(expression, 5) for expression in forms.EXAMPLES} == {"train"}


def test_shared_prompts_give_what_whole_rows_give(start, rng):
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    alike = rng.integers(2, 300, 9).tolist()
    prompts = [alike + rng.integers(2, 300, n).tolist() for n in (1, 4, 2)]
    found = shared_prefix.generate(model, prompts, 6, 1, sampled=False)
    for prompt, completion in zip(prompts, found, strict=True):
        row = list(prompt)
        for token in completion:
            assert token == int(model(input_ids=torch.tensor([row])).logits[0, -1].argmax())
            row.append(token)
        assert len(completion) == 6 or completion[-1] == 1
    completions = [rng.integers(2, 300, n).tolist() for n in (3, 1, 5)]
    logits, tokens, rows = shared_prefix.predicted(model, prompts, completions)
    assert tokens.tolist() == [token for completion in completions for token in completion]
    assert rows.tolist() == [0] * 3 + [1] + [2] * 5
    whole = [model(input_ids=torch.tensor([p + c])).logits[0, len(p) - 1 : -1]
             for p, c in zip(prompts, completions, strict=True)]
    torch.testing.assert_close(logits, torch.cat(whole), rtol=1e-4, atol=1e-5)
    gradients = []
    for values in (logits, torch.cat(whole)):
        model.zero_grad()
        torch.nn.functional.cross_entropy(values, tokens).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_frozen_weights_are_the_same_in_either_precision(start, rng):
    fp32 = ZOO.model_copy(update={"frozen_precision": "fp32"})
    (quick, _), (small, _) = (adapter_arms.attached(start, zoo) for zoo in (fp32, ZOO))
    own = dict(small.named_parameters())
    for name, p in quick.named_parameters():
        assert p.dtype == torch.float32 and own[name].dtype == (
            torch.float32 if p.requires_grad else torch.bfloat16), name
        assert p.requires_grad or torch.equal(p, own[name].float()), name  # adapters begin rounded beside bfloat16
    ids = torch.tensor(rng.integers(2, 300, (2, 9)))
    with torch.no_grad():
        exact, near = (model(input_ids=ids).logits.float() for model in (quick, small))
    assert (near - exact).norm() < 0.1 * exact.norm()


def test_sampling_follows_the_probabilities(rng):
    torch.manual_seed(int(rng.integers(2**31)))
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
    drawn = shared_prefix._draw(logits.expand(20_000, -1), torch.rand(20_000, 1))
    torch.testing.assert_close(torch.bincount(drawn, minlength=4) / 20_000, logits.softmax(-1)[0], rtol=0, atol=0.02)


def test_advantages_by_hand():
    found = adapter_arms.advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    assert found.tolist() == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999, 0, 0, 0, 0], abs=1e-4)


def probability_of_even(model, tokenizer):
    """Probability that an answer begins with an even token, exactly, mean over 16 problems."""
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([forms.Chat(tokenizer).prompt(problem)])).logits[0, -1]
                  for problem in draw("held-out", 16, "held-out", ZOO)]
    return float(torch.stack(logits).float().softmax(-1)[:, ::2].sum(-1).mean())


def test_what_is_rewarded_becomes_likelier(start, tmp_path, monkeypatch):
    monkeypatch.setattr(forms.Chat, "is_right", lambda self, completion, problem: completion[0] % 2 == 0)
    before = probability_of_even(*load_lm(start))
    zoo = ZOO.model_copy(update={"grpo_steps": 60, "grpo_prompts": 4})  # half as many of both move it by .1 alone
    curve = adapter_arms.reinforce(start, zoo, tmp_path / "work", 1)
    model, tokenizer = load_lm(start)
    after = probability_of_even(adapters.apply(model, tmp_path / "work" / "adapter"), tokenizer)
    assert len(curve.query("quantity == 'reward'")) == 60 and after > before + 0.1


@pytest.mark.parametrize("size", [0.03, 0.3, 3.0])
def test_the_penalty_is_one_minus_cka_and_has_its_gradient(size, rng):
    y = rng.normal(size=(12, 5)) * [9, 3, 1, 1, 1] + 7
    x = y + size * rng.normal(size=y.shape)
    exact = 1 - linear_cka(x, y)
    single, before = (torch.tensor(z, dtype=torch.float32) for z in (x, y))
    found = sft.cka_distance(single.requires_grad_(), before)
    assert found.item() == pytest.approx(exact, rel=1e-3, abs=1e-9)
    assert sft.cka_distance(before @ torch.tensor(np.linalg.qr(rng.normal(size=(5, 5)))[0]).float() * 3 + 1,
                            before).item() < 1e-6
    found.backward()
    gradient = single.grad.double().numpy()
    step = 1e-2 * size * gradient / np.linalg.norm(gradient)
    slope = (linear_cka(x - step, y) - linear_cka(x + step, y)) / 2
    assert (gradient * step).sum() == pytest.approx(slope, rel=1e-2)


def test_states_of_blocks_are_those_of_whole_rows(start, rng):
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    alike = rng.integers(2, 300, 6).tolist()
    prompts, answers = ([[*begin, *rng.integers(2, 300, n).tolist()] for n in (3, 5)] for begin in (alike, []))
    with shared_prefix.block_outputs(model, (1, 2)) as found:
        _, _, real, _ = shared_prefix.passed(model, prompts, answers)
    assert not any(layer._forward_hooks for layer in model.model.layers)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole = model(input_ids=torch.tensor([prompt + answer]), output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(found[1][row][real[row]], whole[0, 6:], rtol=1e-4, atol=1e-5)
    assert found[2].shape == found[1].shape
    with pytest.raises(ValueError, match=r"expected blocks of at most 2, which the model has, got \[3\]"):
        shared_prefix.block_outputs(model, [3]).__enter__()


def drift(curve):
    return curve.loc[curve["quantity"] == sft.DISTANCE, "value"].to_numpy()


def test_a_heavier_penalty_holds_states_nearer_to_the_start(start, tmp_path):
    weights = (1e-6, 100.0)
    light, heavy = (drift(adapter_arms.fine_tune(start, ZOO, tmp_path / f"{weight}", Geometry(weight=weight, blocks=(
        1, 2)))) for weight in weights)
    assert light[0] == heavy[0] == 0 and len(light) == ZOO.sft_steps
    assert light[-1] > 1e-3 and heavy[-1] < light[-1] / 2


@pytest.mark.parametrize("train", [
    lambda start, work: adapter_arms.fine_tune(start, ZOO, work),
    lambda start, work: adapter_arms.fine_tune(start, ZOO, work, Geometry(weight=1.0, blocks=(2,))),
    lambda start, work: adapter_arms.reinforce(start, ZOO, work, 2)], ids=["sft", "sft-geometry", "grpo"])
def test_training_of_adapters_goes_on_from_its_checkpoint(train, start, tmp_path, monkeypatch):
    monkeypatch.setattr(forms.Chat, "is_right", lambda self, completion, problem: completion[0] % 2 == 0)
    whole = train(start, tmp_path / "whole")
    saved = adapter_arms._checkpoint

    def killed(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter_arms, "_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        train(start, tmp_path / "cut")
    monkeypatch.setattr(adapter_arms, "_checkpoint", saved)
    resumed = train(start, tmp_path / "cut")
    first, again = (load_file(tmp_path / work / "adapter" / "adapter_model.safetensors") for work in ("whole", "cut"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    whole, resumed = (curve[curve["quantity"] != "seconds"] for curve in (whole, resumed))
    pd.testing.assert_frame_equal(whole, resumed, check_exact=True)
