import pytest
import yaml

from hrsa.analysis.pairs import cases
from hrsa.report import chapters
from hrsa.study.profile import PROFILES, Profile, Recipe, load_profile


@pytest.mark.parametrize("name", [p.stem for p in sorted(PROFILES.glob("*.yaml"))])
def test_every_shipped_profile_is_valid_and_lists_each_model_once(name):
    profile = load_profile(name)
    ids = [model.id for model in profile.models()]
    assert len(set(ids)) == len(ids)
    assert len(ids) == len(profile.backbones) + len(profile.trained()) * len(profile.seeds) + sum(
        len(a.backbones) * len(a.seeds) for a in profile.ablations
    )
    assert [profile.model(i).id for i in ids] == ids


def test_mini_has_several_seeds_and_paper_the_published_recipe():
    assert len(load_profile("mini").seeds) >= 2
    recipe = load_profile("paper").recipe
    assert (recipe.temperature, recipe.batch_size, recipe.steps, recipe.hard_negatives) == (0.02, 2048, 782, 3)
    assert (recipe.learning_rate, recipe.warmup_ratio, recipe.weight_decay) == (2e-5, 0.03, 0.05)
    assert recipe.max_length == 512


def _write(folder, **changes):
    content = yaml.safe_load((PROFILES / "smoke.yaml").read_text(encoding="utf8")) | {"name": "own"} | changes
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf8")
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temprature": 1}, "temprature"),
        ({"recipe": {"stepz": 3}}, "recipe.stepz"),
        ({"recipe": {"temperature": 0}}, "recipe.temperature"),
        ({"seeds": [0, 0]}, "every seed once"),
        ({"pairs": [{"name": "x", "a": "base", "b": "nobody", "kind": "SFT"}]}, "nobody"),
        ({"ablations": [{"name": "x", "change": {"nothing": 1}, "backbones": ["base"]}]}, "nothing"),
        ({"name": "other"}, "expected the name of the profile"),
        ({"backbones": [{"name": "base", "source": "folder", "arm": "base"}]}, "expected a path"),
        ({"backbones": [{"name": "base", "source": "package", "arm": "base"}]}, "expected a path"),
        ({"backbones": [{"name": "b", "source": "package", "path": "x", "arm": "sft"}]}, "expected arm base"),
        ({"controls": [{"name": "c", "expects": "alike", "a": "base", "b": "rlvr"}]}, "controls.0.expects"),
        ({"controls": [{"name": "c", "expects": "same", "a": "base", "b": "nobody"}]}, "control c: .*nobody"),
        ({"controls": [{"name": "c", "expects": "same", "a": "base", "b": "base"}]}, "two embedders, got base twice"),
        ({"controls": [{"name": "c", "expects": "same", "a": "base", "b": "rlvr"} for _ in range(2)]},
         "every control once"),
        ({"controls": [{"name": "c", "expects": "different", "a": "base", "b": "base", "ablation": "none"}]},
         "name of a ablation of the profile"),
        ({"controls": [{"name": "c", "expects": "different", "a": "base", "b": "base", "ablation": "causal"}]},
         r"ablation causal of base with seeds \[0, 1\], got it for .* with seeds \[0\]"),
        ({"seeds": [0], "controls": [{"name": "c", "expects": "same", "a": "base", "b": "base", "other_order": True}]},
         "two seeds or more for another order"),
        ({"backbones": [{"name": "b", "source": "random", "arm": "control"}]}, "expected arm control and a start"),
        ({"backbones": [{"name": "b", "source": "folder", "path": "x", "arm": "control"}]}, "expected arm control and"),
        ({"backbones": [{"name": "b", "source": "random", "arm": "base", "start": "b"}]}, "expected arm control and"),
        ({"backbones": [{"name": "b", "source": "noised", "arm": "control", "start": "b"}]}, "expected noise"),
        ({"backbones": [{"name": "b", "source": "hub", "path": "x", "arm": "base", "card": "y"}]}, "expected a card"),
    ],
)
def test_a_wrong_profile_says_which_key_and_what_came(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        load_profile(_write(tmp_path, **changes))


def test_backbones_of_analysis_pairs_alone_get_no_embedders(tmp_path):
    paper = load_profile("paper")
    spared = {b.name for b in paper.backbones} - set(paper.trained())
    assert spared == {"polaris-4b", "r1-distill-7b", "polaris-7b", "qwen2.5-7b", "ppo-think-7b"}
    assert {m.backbone for m in paper.models() if m.seed is not None} == set(paper.trained())
    extra = [{"name": "rlvr-vs-sft", "a": "rlvr", "b": "sft", "kind": "other"}]
    own = load_profile(_write(tmp_path, analysis_pairs=extra))
    assert own.trained() == [b.name for b in own.backbones]
    assert {case.models for case in cases(own, "rlvr-vs-sft")} == {"backbones", "ceiling"}
    assert {case.models for case in cases(own, "base-vs-sft")} == {
        "backbones", "embedders", "two runs", "crossed", "ceiling"}
    assert "rlvr-vs-sft" in chapters.jobs(own)["07_cka"]
    five = own.model_copy(update={"seeds": (0, 1, 2, 3, 4)})
    for study, rings in (own, ["01"]), (
            own.model_copy(update={"seeds": (0, 1, 2)}), ["01", "02", "12"]), (
            five, ["01", "04", "12", "23", "34"]):
        found = [case for case in cases(study, "base-vs-sft") if case.models == "two runs"]
        assert [case.a[-1] + case.b[-1] for case in found] == 2 * rings  # of base, then of sft
        assert [{case.a[:-3], case.b[:-3]} for case in found] == [{"base"}] * len(rings) + [{"sft"}] * len(rings)
        crossed = [case for case in cases(study, "base-vs-sft") if case.models == "crossed"]
        assert len(crossed) == len(study.seeds) and all(
            case.a.startswith("base-s") and case.b.startswith("sft-s") and case.a[-1] != case.b[-1] for case in crossed)
    one = own.model_copy(update={"seeds": (0,)})
    assert {case.models for case in cases(one, "base-vs-sft")} == {"backbones", "embedders", "ceiling"}
    with pytest.raises(ValueError, match="every pair once"):
        load_profile(_write(tmp_path, analysis_pairs=[extra[0] | {"name": "base-vs-sft"}]))


def test_backbones_of_controls_get_embedders(tmp_path):
    extra = [{"name": "rlvr-vs-sft", "a": "rlvr", "b": "sft", "kind": "other"}]
    pairs = [{"name": "base-vs-rlvr", "a": "base", "b": "rlvr", "kind": "RLVR"}]
    changes = {"pairs": pairs, "analysis_pairs": extra, "controls": []}
    assert load_profile(_write(tmp_path, **changes)).trained() == ["base", "rlvr"]
    controls = [{"name": "start", "expects": "different", "a": "base", "b": "sft"}]
    assert load_profile(_write(tmp_path, **changes | {"controls": controls})).trained() == ["base", "rlvr", "sft"]


def test_unknown_and_broken_profiles_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected a profile.*smoke.*got 'nowhere'"):
        load_profile("nowhere")
    broken = tmp_path / "own.yaml"
    broken.write_text("a: [", encoding="utf8")
    with pytest.raises(ValueError, match="expected YAML"):
        load_profile(broken)


@pytest.mark.parametrize(("text", "said"), [
    ("name: own\nseeds: [0]\nseeds: [1]\n", r"the key 'seeds' twice\s+.*line 3"),
    ("name: own\nrecipe:\n  steps: 1\n  steps: 2\n", r"the key 'steps' twice\s+.*line 4"),
    ("a: &a [x, x]\nb: &b [*a, *a]\n", r"the alias \*a where its content should stand"),
    ("name: &n own\ntitle: *n\n", r"the alias \*n"),
    ("? [a, b]\n: c\n", "a list or a mapping as a key"),
    ("[" * 3000, "expected YAML"), ("name: !!python/object/apply:os.system [ls]\n", "expected YAML"),
])
def test_a_profile_is_read_as_it_is_written(tmp_path, text, said):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        load_profile(path)
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ValueError, match="expected YAML in UTF-8"):
        load_profile(path)


def test_settings_of_larger_models_leave_older_statements_as_they_were():
    content = load_profile("smoke").model_dump()
    assert not {"lora", "form", "held_out_of"} & set(content["zoo"])
    content["zoo"] |= {"lora": {"r": 4}, "form": "chat", "held_out_of": 5}
    zoo = Profile.model_validate(content).model_dump()["zoo"]
    assert zoo["lora"] == {"r": 4, "alpha": 32, "dropout": 0.1} and (zoo["form"], zoo["held_out_of"]) == ("chat", 5)


def test_an_ablation_changes_only_what_it_names():
    profile = load_profile("smoke")
    causal = profile.varied("causal")
    assert causal.attention == "causal"
    assert causal.model_copy(update={"attention": "bidirectional"}) == profile.recipe
    assert isinstance(profile.varied(None), Recipe)
    with pytest.raises(ValueError, match="of the profile, one of"):
        profile.varied("unknown")


def test_profiles_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_profile("smoke").recipe.steps = 1
