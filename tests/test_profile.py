import pytest
import yaml

from hrsa.analysis.pairs import cases
from hrsa.report import chapters
from hrsa.study.profile import PROFILES, Backbone, Profile, Recipe, load_profile
from hrsa.study.sections import fit_name


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
        ({"seeds": [0, 0]}, r"every seed once, got \[0, 0\]"),
        ({"seeds": [0, -1]}, r"line \d+: seeds.1: .*greater than or equal to 0, got -1"),
        ({"seeds": [True]}, r"seeds: expected something other than true or false, got \[True\]"),
        ({"seeds": [2**32]}, r"seeds.0: .*less than 4294967296"),
        ({"seeds": [0.5]}, "seeds.0: .*integer"),
        ({"recipe": {"learning_rate": float("nan")}}, r"line \d+: recipe.learning_rate: .*finite number, got nan"),
        ({"recipe": {"learning_rate": -1e-3}}, "recipe.learning_rate"),
        ({"recipe": {"temperature": float("inf")}}, "recipe.temperature: .*finite number, got inf"),
        ({"recipe": {"weight_decay": -0.1}}, "recipe.weight_decay"), ({"recipe": {"steps": 0}}, "recipe.steps"),
        ({"recipe": {"steps": True}}, "recipe.steps: expected something other than true"),
        ({"recipe": {"batch_size": 1}}, r"recipe.batch_size: .*greater than or equal to 2, got 1"),
        ({"recipe": {"steps": 5, "checkpoints": [6]}}, r"recipe: expected checkpoints within steps=5, got \[6\]"),
        ({"recipe": {"checkpoints": [3, 3]}}, "recipe.checkpoints: expected every entry once"),
        ({"recipe": {"checkpoints": [0]}}, "recipe.checkpoints.0"), ({"recipe": {"lora": {"r": 0}}}, "recipe.lora.r"),
        ({"recipe": {"lora": {"dropout": 1}}}, "recipe.lora.dropout"),
        ({"analysis": {"ks": []}}, "analysis.ks"), ({"analysis": {"ks": [0]}}, "analysis.ks.0"),
        ({"analysis": {"ks": [5, 5]}}, "analysis.ks: expected every entry once"),
        ({"analysis": {"ks": [5, 50], "max_tokens": 50}}, r"expected ks below max_tokens=50, .*got ks=\[5, 50\]"),
        ({"analysis": {"max_tokens": 3}}, "analysis.max_tokens"),
        ({"analysis": {"bootstrap": 0}}, "analysis.bootstrap"),
        ({"analysis": {"max_length": 0}}, "analysis.max_length"), ({"analysis": {"texts": ""}}, "analysis.texts"),
        ({"verdict": {"margin": 2}}, "verdict.margin"), ({"verdict": {"margin": 0}}, "verdict.margin"),
        ({"verdict": {"resamples": 50}}, "at least 4 / alpha = 80, got 50"), ({"threads": 0}, "threads"),
        ({"threads": 10_000}, "threads"), ({"backbones": []}, "backbones"), ({"chapters": []}, "chapters"),
        ({"suite": {"tasks": ["ToolRetrieval"] * 2}}, "suite.tasks: expected every entry once"),
        ({"suite": {"max_docs": 0}}, "suite.max_docs"), ({"suite": {"mining": {"margin": 1.5}}}, "suite.mining.margin"),
        ({"suite": {"mining": {"skip_share": -0.1}}}, "suite.mining.skip_share"),
        ({"suite": {"train": []}}, "suite.train"),
        ({"zoo": {"hidden_size": 65, "heads": 2, "kv_heads": 1}}, "zoo: expected heads that .*hidden_size=65, heads=2"),
        ({"zoo": {"heads": 3, "kv_heads": 2, "hidden_size": 96}}, "heads=3, kv_heads=2"),
        ({"zoo": {"hidden_size": 6, "heads": 2, "kv_heads": 1}}, "even head_dim .*got 3"),
        ({"zoo": {"terms": [4, 3]}}, r"terms as \[fewest, most\].*got \[4, 3\]"),
        ({"zoo": {"layers": 0}}, "zoo.layers"),
        ({"zoo": {"asked": [1, 3]}}, r"asked as .*got \[1, 3\]"), ({"title": "two\nlines"}, "title"),
        ({"title": ""}, "title"), ({"title": "x" * 300}, "title"),
        ({"backbones": [{"name": "base-s0", "source": "zoo", "arm": "base"}]}, "name that no run of the study has"),
        ({"backbones": [{"name": "bm25", "source": "zoo", "arm": "base"}]}, "name that no run of the study has"),
        ({"backbones": [{"name": 7, "source": "zoo", "arm": "base"}]}, "name: expected a name that reads as .*got 7"),
        ({"backbones": [{"name": "1e3", "source": "zoo", "arm": "base"}]}, "expected a name that reads as text.*'1e3'"),
        ({"backbones": [{"name": "../x", "source": "zoo", "arm": "base"}]}, "backbones.0.name"),
        ({"backbones": [{"name": "x" * 81, "source": "zoo", "arm": "base"}]}, "backbones.0.name"),
        ({"pairs": [{"name": "x", "a": "base", "b": "base", "kind": "SFT"}]},
         "pair x: expected two models, got the same one twice as base and base"),
        ({"pairs": [{"name": "study", "a": "base", "b": "sft", "kind": "SFT"}]}, "another name for the pair 'study'"),
        ({"ablations": [{"name": "s1", "change": {"attention": "causal"}, "backbones": ["base"]}]}, "that no run of"),
        ({"ablations": [{"name": "x", "change": {"attention": "bidirectional"}, "backbones": ["base"]}]},
         "ablation x: expected a change of the recipe"),
        ({"ablations": [{"name": "x", "change": {"steps": 0}, "backbones": ["base"]}]},
         "ablation x: expected a valid recipe, got steps: .*got 0"),
        ({"ablations": [{"name": "x", "change": {}, "backbones": ["base"]}]}, "ablations.0.change"),
        ({"ablations": [{"name": "x", "change": {"attention": "causal"}, "backbones": ["base"], "seeds": []}]},
         "ablations.0.seeds"),
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
         r"ablation causal of base with two or more of the seeds \[0, 1\], got it for .* with seeds \[0\]"),
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


def test_one_model_under_two_names_is_no_pair(tmp_path):
    twice = [{"name": a, "source": "folder", "path": path, "arm": "base"} for a, path in (("a", "x"), ("b", "x/"))]
    rest = {"pairs": [{"name": "a-vs-b", "a": "a", "b": "b", "kind": "other"}], "ablations": [], "controls": []}
    with pytest.raises(ValueError, match="pair a-vs-b: expected two models, got the same one twice as a and b"):
        load_profile(_write(tmp_path, **rest | {"backbones": twice}))
    runs = [{"name": name, "source": "zoo", "arm": "base", "seed": seed} for name, seed in (("a", 0), ("b", 1))]
    assert load_profile(_write(tmp_path, **rest | {"backbones": runs})).pair("a-vs-b").b == "b"
    with pytest.raises(ValueError, match="got the same one twice"):  # `zoo.seed` is 0
        load_profile(_write(tmp_path, **rest | {"backbones": [runs[0] | {"seed": None}, runs[1] | {"seed": 0}]}))


@pytest.mark.parametrize("starts", ["ab bc ca", "aa"])
def test_starts_lead_to_a_backbone_without_one(tmp_path, starts):
    links = dict(starts.split())
    backbones = [{"name": a, "source": "zoo", "arm": "sft", "start": b} for a, b in links.items()]
    backbones.append({"name": "z", "source": "zoo", "arm": "base"})
    pairs = [{"name": "x", "a": "z", "b": "a", "kind": "SFT"}]
    with pytest.raises(ValueError, match=rf"backbone a: expected starts .*got {' <- '.join([*links, 'a'])}: correct"):
        load_profile(_write(tmp_path, backbones=backbones, pairs=pairs, ablations=[], controls=[]))


@pytest.mark.parametrize(("text", "name"), [
    ("Qwen2.5_Math", "qwen2.5-math"), ("007", "model-007"), ("base-s0", "base-seed0"), ("true", "model-true"),
    ("...", "model"), ("bm25", "model-bm25"), ("x" * 99, "x" * 74), ("<script>", "script"), ("-.a.-", "a"),
    ("s1-s2-s3", "seed1-seed2-seed3")])
def test_any_text_becomes_a_name_of_a_backbone(text, name):
    assert fit_name(text) == name
    assert Backbone(name=fit_name(text), source="zoo", arm="base").name == name


@pytest.mark.parametrize("name", ["007", "1.5", "1e3", "true", "null", "2024-01-01"])
def test_a_name_that_reads_as_something_else_is_refused(tmp_path, name):
    path = _write(tmp_path, name=name).rename(tmp_path / f"{name}.yaml")
    with pytest.raises(ValueError, match=f"name: expected a name that reads as text, such as run-7, .*got '{name}'"):
        load_profile(path)


@pytest.mark.parametrize("name", ["../smoke", "smoke/../smoke", "/etc/passwd", "x" * 300, "", "a\0b.yaml",
                                  "x" * 300 + ".yaml"])
def test_a_profile_is_asked_for_by_a_name_or_the_path_of_a_yaml_file(name):
    with pytest.raises(ValueError, match=r"expected a profile, one of \[.*'smoke'.*or the path of a .yaml file, got"):
        load_profile(name)


def test_the_line_of_what_is_wrong_is_said(tmp_path):
    text = (PROFILES / "smoke.yaml").read_text(encoding="utf8").replace("name: smoke", "name: own")
    (tmp_path / "own.yaml").write_text(text.replace("texts_per_set: 12", "texts_per_set: 0"), encoding="utf8")
    number = (tmp_path / "own.yaml").read_text().splitlines().index("  texts_per_set: 0") + 1
    with pytest.raises(ValueError, match=rf"own.yaml is not .*\n  line {number}: analysis.texts_per_set: .*, got 0$"):
        load_profile(tmp_path / "own.yaml")


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
