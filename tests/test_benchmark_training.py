"""The benchmarks of training at tiny size: both losses agree, and the GPU's table comes out on a CPU."""

import re

import pytest

from hrsa.models.embedder import assemble
from hrsa.study import store


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(store.ROOT / "benchmarks"))
    import training
    import training_gpu

    return training, training_gpu


def test_both_losses_and_their_gradients_agree(scripts, tmp_path, rng):
    training, gpu = scripts
    texts = training.suite_texts().sample(200, random_state=int(rng.integers(2**31)))
    training.write_model(tmp_path, texts, **gpu.TINY)
    model = assemble(str(tmp_path), "bidirectional", 32).train()
    peers, said = training.chosen(model, texts, 8)
    assert len(peers) == len(training.PEERS) and len(re.findall(r"\d s\b", said)) == 6
    table, (loss, gradient) = training.compare(model, texts, 8, 2, peers)
    assert list(table.index) == [training.OURS, *peers] and (table["speed"] > 0).all()
    assert table.loc[training.OURS, "ratio"] == 1 and loss < 1e-5 and gradient < 1e-4
    features = training.batch_of(model, texts, 4, 0)
    lengths = [int(row.sum()) for column in features for row in column["attention_mask"]]
    inner = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    operations = 6 * inner * sum(lengths) + 12 * 2 * 32 * sum(n * n for n in lengths)  # 2 layers x 32
    assert gpu.useful(model, features) == (sum(lengths), pytest.approx(operations))
    with pytest.raises(ValueError, match="expected at least 400 texts for 100 queries, got 200"):
        training.batch_of(model, texts, 100, 0)


def test_the_table_of_the_gpu_comes_out_on_a_cpu(scripts, capsys):
    gpu = scripts[1]
    assert gpu.main(gpu.arguments(["--tiny", "--batch", "8", "--rounds", "1"])) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^\| (ours|peer), [^|]+\| ([\d,]+) \| ([\d.]+)% \|", out, re.M)
    assert [who for who, _, _ in rows] == ["ours", "peer"] and all(int(speed.replace(",", "")) for _, speed, _ in rows)
    assert "a CPU (a trial of this script, no result)" in out


def test_without_a_gpu_the_benchmark_of_the_gpu_says_so(scripts, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scripts[1].main(scripts[1].arguments([])) == 1
    assert "got none: run on a machine with a GPU" in capsys.readouterr().err
