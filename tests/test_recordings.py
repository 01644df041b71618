"""Token states: stream equals array, order, padding, labels, rows shared by models, errors."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from hrsa.analysis import hidden_states, recordings
from hrsa.study.profile import Analysis

WORDS = [f"w{i}" for i in range(40)]


def save_qwen3(folder, rng, words=WORDS, width=16, layers=2):
    """A random Qwen3 model and a word tokenizer, as a folder."""
    torch.manual_seed(int(rng.integers(2**31)))
    config = Qwen3Config(vocab_size=len(words) + 2, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
                         num_key_value_heads=1, head_dim=8, intermediate_size=32, max_position_embeddings=64,
                         pad_token_id=0, bos_token_id=None, eos_token_id=None)
    model = Qwen3Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:  # weights large enough for states to differ between layers and contexts
                parameter.normal_(0, 0.3)
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1} | {w: i + 2 for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return str(folder)


def load(folder):
    """The folder as an embedder with mean pooling."""
    transformer = Transformer(folder)
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")


def texts_of(rng, n, low=1, high=12):
    return [" ".join(rng.choice(WORDS, size=rng.integers(low, high))) for _ in range(n)]


@pytest.fixture
def embedder(tmp_path, rng):
    return load(save_qwen3(tmp_path / "model", rng))


def streamed(embedder, texts, **options):
    """All batches joined and put in order: (l, n, d)."""
    module, tokenizer = embedder[0].auto_model, embedder.tokenizer
    batches = list(hidden_states.stream_states(module, tokenizer, texts, 64, **options))
    rows = np.concatenate([batch.rows for batch in batches])
    return np.concatenate([batch.states for batch in batches], axis=1)[:, np.argsort(rows)], rows


def test_stream_equals_one_text_at_a_time_in_the_given_order(embedder, rng):
    texts = texts_of(rng, 13)
    module, tokenizer = embedder[0].auto_model, embedder.tokenizer
    states, rows = streamed(embedder, texts, batch_tokens=24)
    assert sorted(rows) == list(range(states.shape[1]))
    alone = []
    for text in texts:
        with torch.inference_mode():
            out = module(**{k: v for k, v in tokenizer(text, return_tensors="pt").items() if k != "token_type_ids"},
                         output_hidden_states=True)
        alone.append(torch.cat(out.hidden_states).numpy())  # (l, t, d), the last one normed
    alone = np.concatenate(alone, axis=1)
    assert states.shape[1] == sum(len(text.split()) for text in texts)  # no pad token among them
    np.testing.assert_allclose(np.delete(states, -2, axis=0), alone, atol=1e-5)


def test_last_block_is_kept_raw_and_after_the_norm(embedder, rng):
    states, _ = streamed(embedder, texts_of(rng, 4))
    assert hidden_states.layer_labels(2) == ["0", "1", "2", "2+norm"]
    raw, normed = torch.tensor(states[-2]), states[-1]
    with torch.inference_mode():
        np.testing.assert_allclose(embedder[0].auto_model.norm(raw).numpy(), normed, atol=1e-6)
    assert np.abs(raw.numpy() - normed).max() > 1e-2


def test_hook_is_removed_even_when_the_forward_pass_fails(embedder, rng):
    module = embedder[0].auto_model
    streamed(embedder, texts_of(rng, 2))
    before = len(module.layers[-1]._forward_hooks)  # transformers keeps hooks of its own
    with pytest.raises(RuntimeError, match="stop"), hidden_states._caught_output(module.layers[-1]):
        raise RuntimeError("stop")
    assert len(module.layers[-1]._forward_hooks) == before


def test_keep_selects_rows(embedder, rng):
    texts = texts_of(rng, 9)
    full, _ = streamed(embedder, texts)
    keep = rng.random(full.shape[1]) < 0.3
    keep[0] = True
    part, rows = streamed(embedder, texts, keep=keep, batch_tokens=16)
    assert sorted(rows) == np.flatnonzero(keep).tolist()
    np.testing.assert_allclose(part, full[:, keep], atol=1e-5)
    with pytest.raises(ValueError, match="mask over"):
        streamed(embedder, texts, keep=keep[1:])


def test_nan_names_layer_and_text(embedder, rng):
    texts = [*texts_of(rng, 3), "w7 w39"]
    texts[:3] = [text.replace("w39", "w1") for text in texts[:3]]
    with torch.no_grad():
        embedder[0].auto_model.embed_tokens.weight[41] = float("nan")  # the row of w39
    with pytest.raises(ValueError, match="layer 0 in text 3"):
        streamed(embedder, texts)


def test_text_without_tokens_is_refused(embedder):
    with pytest.raises(ValueError, match=r"text 1 \(' '\)"):
        streamed(embedder, ["w1", " "])


def probe_table(rng, n=24):
    """A table of the shape of `hrsa.texts.suite.read_probe_texts`."""
    sets = np.array(["general", "maths"])[np.arange(n) % 2]
    return pd.DataFrame({"id": [f"t{i}" for i in range(n)], "set": sets,
                         "difficulty": np.where(sets == "maths", "1", ""),
                         "text": texts_of(rng, n, 3), "topic": [f"topic{i % 3}" for i in range(n)],
                         "target": rng.normal(size=n)})


def test_two_models_get_the_same_rows(tmp_path, rng):
    table, analysis = probe_table(rng), Analysis(texts_per_set=8, max_length=10, max_tokens=60, probe_texts=20)
    for name, width, layers in (("a", 16, 2), ("b", 24, 3)):
        (tmp_path / name).mkdir()
        model = load(save_qwen3(tmp_path / f"model-{name}", rng, width=width, layers=layers))
        recordings.write_states(tmp_path / name, model, table, analysis, name)
    states = [recordings.open_recording(tmp_path / name) for name in "ab"]
    recordings.check_same_rows(*states)
    tokens = [state.tokens for state in states]
    pd.testing.assert_frame_equal(*tokens)
    assert len(tokens[0]) == 60 and tokens[0]["position"].lt(tokens[0]["length"]).all()
    assert tokens[0]["text"].nunique() <= 16 and tokens[0]["length"].max() <= 10
    for name, width, layers in (("a", 16, 2), ("b", 24, 3)):
        assert json.loads((tmp_path / name / "layers.json").read_text()) == hidden_states.layer_labels(layers)
        assert np.load(tmp_path / name / f"layer-{layers + 1:02d}.npy").shape == (60, width)
        assert np.load(tmp_path / name / "pooled.npy").shape == (20, width)
    assert len(pd.read_parquet(tmp_path / "a" / "pooled.parquet")) == 20


def test_other_tokenizer_is_refused(tmp_path, rng):
    table, analysis = probe_table(rng), Analysis(texts_per_set=8, max_length=10, max_tokens=60, probe_texts=20)
    for name, words in (("a", WORDS), ("b", WORDS[::-1])):
        (tmp_path / name).mkdir()
        model = load(save_qwen3(tmp_path / f"model-{name}", rng, words=words))
        recordings.write_states(tmp_path / name, model, table, analysis, name)
    with pytest.raises(ValueError, match="equal tokenizers"):
        recordings.check_same_rows(*(recordings.open_recording(tmp_path / name) for name in "ab"))


def test_written_rows_are_the_states_of_the_tokens_they_name(tmp_path, rng):
    table, analysis = probe_table(rng), Analysis(texts_per_set=12, max_length=64, max_tokens=30, ks=(3,),
                                                       probe_texts=24)
    model = load(save_qwen3(tmp_path / "model", rng))
    recordings.write_states(tmp_path, model, table, analysis, "model")
    tokens, pooled = pd.read_parquet(tmp_path / "tokens.parquet"), np.load(tmp_path / "pooled.npy")
    states = np.load(tmp_path / "layer-03.npy")
    texts = table.set_index("id")["text"]
    for row in tokens.iloc[::7].itertuples():
        assert model.tokenizer(texts[row.text])["input_ids"][row.position] == row.token_id
        alone = streamed(model, [texts[row.text]])[0]
        np.testing.assert_allclose(states[row.row], alone[-1, row.position], atol=1e-5)
    np.testing.assert_allclose(pooled[5], streamed(model, [table["text"][5]])[0][-1].mean(axis=0), atol=1e-5)


def test_texts_cut_behind_the_last_position_are_refused(embedder, tmp_path, rng):
    analysis = Analysis(texts_per_set=8, max_length=65, max_tokens=60, probe_texts=20)
    with pytest.raises(ValueError, match=r"cut at 64 tokens or less, .* got 65: lower analysis.max_length"):
        recordings.write_states(tmp_path, embedder, probe_table(rng), analysis, "model")


def test_a_text_is_its_last_token_where_the_model_pools_that(tmp_path, rng):
    table = probe_table(rng)
    analysis = Analysis(unit="text", texts_per_set=12, max_length=64, max_tokens=30, ks=(3,), probe_texts=24)
    model = load(save_qwen3(tmp_path / "model", rng))
    model[1].pooling_mode = "lasttoken"
    recordings.write_states(tmp_path, model, table, analysis, "model")
    rows = pd.read_parquet(tmp_path / "tokens.parquet")
    texts = table.set_index("id")["text"]
    expected = np.stack([streamed(model, [texts[name]])[0][:, -1] for name in rows["text"]], axis=1)  # (l, n, d)
    for layer in range(4):
        np.testing.assert_allclose(np.load(tmp_path / f"layer-{layer:02d}.npy"), expected[layer], atol=1e-5)
    pooled = dict(zip(pd.read_parquet(tmp_path / "pooled.parquet")["id"], np.load(tmp_path / "pooled.npy"),
                      strict=True))
    np.testing.assert_allclose([pooled[name] for name in rows["text"]], expected[3], atol=1e-5)


def test_memory_does_not_hold_the_layers(tmp_path):
    files = recordings._open_layers(tmp_path, 3, (5, 4))
    files[1][2] = 7
    files[1].flush()
    assert isinstance(files[1], np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / "layer-01.npy")[2], np.full(4, 7, np.float32))
