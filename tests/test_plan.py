"""The plan: published sizes on the meta device, hours and memory worked by hand, what more work does, refusals."""

import pytest

from hrsa.models.language_model import prove_architecture
from hrsa.study import store
from hrsa.study.profile import Backbone, Recipe, load_profile
from hrsa.workflow import engine, plan, sizes
from hrsa.workflow.commands import main

PUBLISHED = {  # parameters of the published weights
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
}
TOY = plan.Size(layers=2, width=10, parameters=3000, embedding=1000, features=200, lm=3000)


def published(name):
    return Backbone(name="some", source="hub", path=name, arm="base")


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_of_the_published_weights(name):
    size = plan.counted_size(plan.shape_of(load_profile("paper"), published(name)))
    assert size.lm == PUBLISHED[name]
    if name == "Qwen/Qwen2.5-7B":  # its head is not the embedding
        assert size.lm - size.parameters == size.embedding == 152064 * 3584
        # q and o, k and v, three of the MLP, in 28 blocks
        assert size.features == 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))


@pytest.mark.parametrize("name", ["smollm2", "mini", "smoke"])
def test_folders_packages_and_zoo_arms_have_a_size(name):
    profile = load_profile(name)
    for backbone in profile.backbones:
        size = plan.counted_size(plan.shape_of(profile, backbone))
        assert size.parameters > size.embedding > 0
        if backbone.source == "package":
            assert (size.layers, size.lm) == (30, 134_515_008)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_the_mask_of_a_miniature_is_proved(attention):
    prove_architecture({"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 2}, attention)


def test_a_model_of_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected a model of known shape.*got 'who/what'"):
        plan.shape_of(load_profile("paper"), published("who/what"))


def test_hours_worked_by_hand():
    recipe = Recipe(batch_size=4, steps=5, hard_negatives=1, max_length=8, chunk_tokens=64, gradient_checkpointing=True)
    assert plan.step_tokens(recipe) == 4 * 3 * 8
    assert TOY.forward(96) == 96 * 2 * 2000
    # forward, backward of two, checkpointing, the gradient cache's second forward pass: 96 tokens are more than 64
    assert plan.training_operations(TOY, recipe, 1) == 5 * 96 * 4000 * 5
    whole = recipe.model_copy(update={"chunk_tokens": 96})
    assert plan.training_operations(TOY, whole, 1) == 5 * 96 * 4000 * 4
    assert plan.training_operations(TOY, whole, 2) == 5 * 96 * 4000 * 5  # under FSDP every mini-batch runs twice
    assert TOY.first(1) == (1, 10, 2000, 1000, 100, 3000) and TOY.first(None) == TOY


def test_memory_worked_by_hand():
    recipe = Recipe(batch_size=64, steps=5, hard_negatives=1, max_length=8, chunk_tokens=64, precision="bf16",
                    gradient_checkpointing=True)
    block = 16 * 10 + 2 * 200 / 2  # bytes a token in full
    alone = 16 * 3000 + 2 * 2000 + 64 * 4 * 10 * 2 + 16 * block
    assert plan.training_memory(TOY, recipe, 1) == alone
    assert plan.training_memory(TOY, recipe, 2) == 8 * 3000 + 2 * 6 * 1000 + 4 * 1000 + 16 * 4 * 10 * 2 + 16 * block
    kept = recipe.model_copy(update={"gradient_checkpointing": False})
    assert plan.training_memory(TOY, kept, 1) == 16 * 3000 + 2 * 2000 + 64 * 2 * block
    adapters = Recipe(**recipe.model_dump() | {"lora": {"r": 2}})
    assert alone - plan.training_memory(TOY, adapters, 1) == 12 * 3000 - 16 * 200 * 2


def test_advice_says_the_least_change_that_fits():
    recipe = Recipe(batch_size=64, steps=5, hard_negatives=1, max_length=8, chunk_tokens=64, precision="bf16")
    alone, shared = (plan.training_memory(TOY, recipe, gpus) for gpus in (1, 2))
    said = [plan.memory_advice(TOY, recipe, plan.Machine(1, limit / 1e9, 1, 1, 1, "GPU"))
            for limit in (alone * 1.001, alone * 0.999, shared * 1.001, 1)]
    assert said == ["yes", "no: recipe.chunk_tokens 32", "no: --gpus 2",
                    "no: GPUs with more memory, or recipe.lora"]


def test_texts_of_a_benchmark_are_those_that_mteb_publishes():
    found = plan.evaluated_texts(load_profile("paper"))
    assert list(found) == ["MTEB(Multilingual, v2)", "MTEB(Code, v1)", "BRIGHT(v1.1)"]
    assert all((table[["texts", "letters"]] > 0).all(axis=None) for table in found.values())
    with pytest.raises(ValueError, match="expected an mteb benchmark"):
        profile = load_profile("paper")
        plan.evaluated_texts(profile.model_copy(update={
            "suite": profile.suite.model_copy(update={"benchmarks": ("none",)})}))


def test_more_seeds_and_steps_cost_more():
    mini = load_profile("mini")
    variants = [mini, mini.model_copy(update={"seeds": (*mini.seeds, 3)}),
                mini.model_copy(update={"recipe": mini.recipe.model_copy(update={"steps": mini.recipe.steps + 10})})]
    machine = plan.assumed_machine(mini)
    first, seeds, steps = (plan.stage_costs(variant, machine).set_index("stage") for variant in variants)
    for name in ("training", "scores, local tasks", "states of all layers", "similarity (HRSA)"):
        assert seeds["hours"][name] > first["hours"][name] > 0
    assert seeds["disk GB"]["training"] > first["disk GB"]["training"]
    assert steps["hours"]["training"] > first["hours"]["training"]
    assert (seeds["hours"] >= first["hours"]).all() and (steps["hours"] >= first["hours"]).all()


@pytest.mark.parametrize("name", ["paper", "mini", "smoke", "smollm2"])
def test_the_command_prints_a_page(name, capsys):
    assert main(["plan", "--profile", name]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    profile = load_profile(name)
    machine = plan.assumed_machine(profile)
    assert all(stage in printed for stage in plan.stage_costs(profile, machine)["stage"])
    assert all(f"  {backbone.name} " in printed for backbone in profile.backbones)
    assert all(task in printed for task in (*profile.suite.tasks, *profile.suite.benchmarks))
    assert ("120 TFLOP/s" in printed) == (name == "paper")  # which alone trains in bf16
    if name == "paper":
        assert "03_training     x  33" in printed and "r1-distill-vs-prorl" in printed


def test_the_plan_says_what_does_not_fit(capsys):
    assert main(["plan", "--profile", "paper", "--gpus", "1", "--gpu-memory", "14", "--tflops", "60"]) == 0
    printed = capsys.readouterr().out
    assert "60 TFLOP/s" in printed and "no: recipe.chunk_tokens" in printed and "no: --gpus" in printed


def test_an_unknown_profile_is_refused(capsys):
    assert main(["plan", "--profile", "none"]) == 1
    assert "expected a profile" in capsys.readouterr().err


def test_a_study_whose_comparisons_lack_memory_says_so_before_it_starts(monkeypatch, tmp_path):
    paper = load_profile("paper")
    sizes.check_memory(paper)
    small = paper.model_copy(update={"analysis": paper.analysis.model_copy(update={"memory_mb": 512})})
    said = r"expected memory_mb of at least \d+ for neighbours and its resamples of pair .*, got 512: raise it"
    with pytest.raises(ValueError, match=said):
        sizes.check_memory(small)
    monkeypatch.setattr(store, "ROOT", tmp_path)  # where nothing is to be begun
    with pytest.raises(ValueError, match=said):
        engine.run_study(small, 1)
    assert not list(tmp_path.iterdir())
    used = paper.analysis.model_copy(update={"bootstrap": 2, "max_tokens": 4000})
    held = [sizes.comparison_mb(used, (28, width), (28, width)) for width in (1536, 3584)]
    assert held[0] < held[1] and held[1][1] == "a map and its resamples"
