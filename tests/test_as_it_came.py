"""A model as it came: decoder, BERT-type encoder and embedder, each with the attention, pooling and prompts it has."""

import shutil

import mteb
import numpy as np
import pandas as pd
import pytest
import torch
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tiny import tiny_backbone, tiny_tokenizer
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, RobertaConfig, RobertaModel

from hrsa.analysis.recordings import make_recording, open_pair
from hrsa.evaluation import evaluate
from hrsa.evaluation.encoder import own_prompt, task_instruction
from hrsa.models.as_it_came import open_as_it_came, read_manner
from hrsa.models.embedder import assemble, embed, open_embedder, save_embedder
from hrsa.models.language_model import leak_probe, load_encoder
from hrsa.models.resolve import make_backbone_key
from hrsa.study import store
from hrsa.study.profile import Profile
from hrsa.texts import own_probes
from hrsa.texts.negative_search import minilm_folder
from hrsa.texts.suite import query_prompt
from hrsa.training.train import make_model
from hrsa.workflow import compare_two
from hrsa.workflow.plan import assumed_machine, plan_text

TEXTS = ["stone", "a green moon", "to wander of seven paper river stone", "paper moon"]


def bert(folder, kind=BertModel, **change):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    kind(BertConfig(**{"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 3,
                       "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64,
                       "pad_token_id": 0, "initializer_range": 0.3, **change})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An embedder of this project: bidirectional, the last token, an instruction."""
    folder = tmp_path_factory.mktemp("exported")
    start = tiny_backbone(folder / "start", 0)
    model = assemble(str(start), "bidirectional", 48, {"stones": query_prompt("find the stones")}, pooling="last")
    save_embedder(model, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A SentenceTransformer of parts and prompts of its own, its network in a folder of its own."""
    folder = tmp_path_factory.mktemp("foreign")
    network = Transformer(str(bert(folder / "bert")), max_seq_length=16)
    modules = [network, Pooling(32, "cls"), Dense(32, 8), Normalize()]
    made = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "find: ", "passage": "text: "})
    made.save_pretrained(str(folder / "model"), create_model_card=False)
    (folder / "model/0_Transformer").mkdir()
    listed = store.read_json(folder / "model/modules.json")
    for file in [f for f in (folder / "model").iterdir() if f.is_file() and f.name not in
                 ("modules.json", "config_sentence_transformers.json")]:
        shutil.move(file, folder / "model/0_Transformer" / file.name)
    store.write_json(folder / "model/modules.json", [{**listed[0], "path": "0_Transformer"}, *listed[1:]])
    return folder / "model"


def test_an_exported_embedder_is_itself(exported):
    manner = read_manner(exported)
    assert (manner.kind, manner.attention, manner.pooling) == ("embedder", "bidirectional", "lasttoken")
    assert manner.prompts == {"stones": query_prompt("find the stones")}
    assert manner.own_prompts is None  # it was trained with instructions, and gets those of a task
    model = open_as_it_came(str(exported), 48)
    leak_probe(model[0].model, model.tokenizer, "bidirectional")
    np.testing.assert_array_equal(embed(model, TEXTS), embed(open_embedder(exported), TEXTS))
    assert open_as_it_came(str(exported), 12).max_seq_length == 12


def test_a_decoder_is_causal_and_pooled_as_the_recipe_says(exported):
    start = exported.parent / "start"
    assert read_manner(start).pooling is None and read_manner(start).kind == "decoder"
    model = open_as_it_came(str(start), 48, pooling="last")
    leak_probe(model[0].model, model.tokenizer, "causal")
    assert model[1].pooling_mode == "lasttoken"


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM, BertForPreTraining])
def test_an_encoder_is_bidirectional(tmp_path, kind):
    manner = read_manner(bert(tmp_path, kind))
    assert (manner.kind, manner.attention, manner.pooling) == ("encoder", "bidirectional", None)
    model = open_as_it_came(str(tmp_path), 48)
    with torch.no_grad():
        states = model[0].model(torch.tensor([model.tokenizer(TEXTS[2])["input_ids"]])).last_hidden_state[0]
    np.testing.assert_allclose(model.encode(TEXTS, show_progress_bar=False)[2], states.mean(0), atol=1e-5)
    cut, _ = load_encoder(tmp_path, "bidirectional", layers=2)
    assert len(cut.encoder.layer) == 2
    with pytest.raises(RuntimeError, match="expected causal attention"):
        load_encoder(tmp_path, "causal")


def test_positions_counted_from_the_padding(tmp_path):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    network = RobertaModel(RobertaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1,
                                         num_attention_heads=2, intermediate_size=48, max_position_embeddings=34,
                                         pad_token_id=0))
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = "stone river " * 40
    model = open_as_it_came(str(tmp_path), 64)
    assert model.max_seq_length == 33 and len(model.encode(text, show_progress_bar=False)) == 32
    with pytest.raises(ValueError, match="at most the 33 tokens"):
        assemble(str(tmp_path), "bidirectional", 34)


def test_an_encoder_that_lacks_a_block_is_still_refused(tmp_path):
    bert(tmp_path)
    store.write_json(tmp_path / "config.json", store.read_json(tmp_path / "config.json") | {"num_hidden_layers": 4})
    with pytest.raises(ValueError, match=r"missing \(encoder.layer.3"):
        open_as_it_came(str(tmp_path), 48)


def test_an_embedder_of_other_parts_is_run_unchanged(foreign):
    manner = read_manner(foreign)
    assert (manner.kind, manner.attention, manner.pooling) == ("embedder", "bidirectional", "cls")
    assert manner.own_prompts == {"query": "find: ", "passage": "text: "}
    plain, model = SentenceTransformer(str(foreign), device="cpu"), open_as_it_came(str(foreign), 48)
    np.testing.assert_allclose(embed(model, TEXTS), embed(plain, TEXTS), atol=1e-6)
    assert embed(model, TEXTS).shape == (4, 8) and model.max_seq_length == 16


def test_an_embedder_without_token_states_is_refused(foreign, tmp_path):
    shutil.copytree(foreign, tmp_path / "model")
    listed = store.read_json(tmp_path / "model/modules.json")
    store.write_json(tmp_path / "model/modules.json", [listed[0], listed[2]])
    with pytest.raises(ValueError, match=r"Transformer and its Pooling in .*got the modules \['Transformer', 'Dense'"):
        read_manner(tmp_path / "model")


def test_older_names_of_pooling(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    old = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False,
           "pooling_mode_max_tokens": True}
    store.write_json(tmp_path / "model/1_Pooling/config.json", old)
    assert read_manner(tmp_path / "model").pooling == "cls+max"
    assert open_as_it_came(str(tmp_path / "model"), 48)[1].pooling_mode == ("cls", "max")


def test_the_encoder_that_mines():
    folder = minilm_folder()
    manner = read_manner(folder)
    assert (manner.kind, manner.attention, manner.pooling) == ("embedder", "bidirectional", "mean")
    assert manner.own_prompts == {}  # it takes neither instruction nor prompt
    plain = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(embed(open_as_it_came(str(folder), 128), TEXTS), embed(plain, TEXTS), atol=1e-6)


def test_prompts_are_found_as_mteb_finds_them():
    prompts = {"query": "q", "passage": "p", "STS": "s", "Retrieval-query": "r"}
    for task, kind, side, expected in (
            ("NQ", "Retrieval", PromptType.query, "r"), ("NQ", "Retrieval", PromptType.document, "p"),
            ("STS12", "STS", None, "s"), ("Banking", "Classification", None, "q")):
        assert own_prompt(prompts, task, kind, side) == expected
    assert own_prompt({}, "NQ", "Retrieval", PromptType.query) == ""


@pytest.fixture
def pair(exported, foreign, tmp_path, monkeypatch, rng):
    """The profile of a comparison of a decoder with its embedder, and its front page."""
    for name in ("ROOT", "RUNS"):
        monkeypatch.setattr(store, name, tmp_path / name)
    store.ROOT.mkdir()
    words = TEXTS[2].split()
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(" ".join(rng.choice(words, 6)) for _ in range(12)))

    def make(a, b, unit="word"):
        return compare_two.profile_of(str(a), str(b), texts, unit, 8)

    return make


def test_a_comparison_runs_models_as_they_came_and_says_so(pair, exported, foreign):
    profile, front, _ = pair(exported.parent / "start", exported, "token")
    assert "| start | folder | decoder language model | causal | mean (not its own) |" in front
    _, name = (backbone.name for backbone in profile.backbones)  # of the folder around `model`
    assert name == exported.parent.name and f"{name} brings prompts" in front
    assert f"| {name} | folder | embedder | bidirectional | lasttoken |" in front
    base, tuned = (make_recording(profile, model) for model in ("start", name))
    x, y = open_pair(base, tuned)
    assert not np.allclose(x.layer(3), y.layer(3), atol=1e-3)  # the same weights, another attention
    texts = own_probes.read_texts(profile.analysis.texts).set_index("id")["text"]
    texts = list(texts[pd.read_parquet(tuned / "pooled.parquet")["id"]])
    plain = open_embedder(exported)
    plain.max_seq_length = 8
    np.testing.assert_allclose(np.load(tuned / "pooled.npy"), plain.encode(texts, show_progress_bar=False), atol=1e-5)
    profile, front, _ = pair(foreign, exported)
    assert "| embedder | bidirectional | cls |" in front
    x, y = open_pair(*(make_recording(profile, b.name) for b in profile.backbones))
    assert x.labels == ("0", "1", "2", "3", "3+norm") and len(x.tokens) == len(y.tokens)


def test_a_model_of_the_hub_is_described_without_its_weights(hub, exported):
    hub.commit("org/tuned", exported)
    described = compare_two.read_description("org/tuned")
    assert described["manner"] == read_manner(exported) and described["source"] == "hub"
    assert not [path for path in hub.asked if "safetensors" in str(path)]


def test_the_plan_proves_what_each_backbone_is(exported, foreign):
    folders = {"start": exported.parent / "start", "tuned": exported, "foreign": foreign}
    profile = Profile.model_validate({
        "name": "p", "title": "P", "seeds": (0,), "pairs": [{"name": "x", "a": "tuned", "b": "foreign",
                                                             "kind": "other"}],
        "backbones": [{"name": name, "source": "folder", "path": str(path), "arm": "base"}
                      for name, path in folders.items()]})
    assert "foreign" in plan_text(profile, assumed_machine(profile))


def test_backbones_are_scored_with_their_own_prompts(exported, foreign):
    profile = Profile.model_validate({
        "name": "p", "title": "P", "seeds": (), "pairs": (), "recipe": {"max_length": 48},
        "backbones": [{"name": name, "source": "folder", "path": str(path), "arm": "base"}
                      for name, path in (("tuned", exported), ("foreign", foreign))]})
    task = mteb.get_task("NFCorpus").metadata
    instruction = query_prompt(task_instruction(task))
    for name, query, document in (("tuned", instruction, ""), ("foreign", "find: ", "text: ")):
        encoder = evaluate._encoder_maker(profile, name, "r")()
        assert encoder._prompt(task, PromptType.query) == query
        assert encoder._prompt(task, PromptType.document) == document


def test_the_key_covers_the_parts_of_an_embedder(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    profile = Profile.model_validate({
        "name": "p", "title": "P", "seeds": (), "pairs": (), "recipe": {"max_length": 48},
        "backbones": [{"name": "m", "source": "folder", "path": str(tmp_path / "model"), "arm": "base"}]})
    before = make_backbone_key(profile, "m")
    assert make_model(profile, "m")[1].pooling_mode == "lasttoken"
    file = tmp_path / "model/1_Pooling/config.json"
    store.write_json(file, store.read_json(file) | {"pooling_mode": "mean"})
    assert make_backbone_key(profile, "m") != before and make_model(profile, "m")[1].pooling_mode == "mean"
