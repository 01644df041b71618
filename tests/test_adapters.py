"""Adapters that change nothing, or more than they say, are refused; those that were trained are merged."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_backbone

from hrsa.models import adapters
from hrsa.models.language_model import load_encoder, load_lm


def write(model, folder, targets="all-linear", task="CAUSAL_LM", trained=True):
    with adapters.quiet_peft():
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type=task))
    if trained:
        with torch.no_grad():
            for name, weights in adapted.named_parameters():
                if "lora_B" in name:
                    weights.fill_(0.1)
    adapted.save_pretrained(folder)


@pytest.fixture
def start(tmp_path):
    return tiny_backbone(tmp_path / "start", seed=0)


def test_trained_adapters_are_merged(start, tmp_path):
    write(load_lm(start)[0], tmp_path / "arm")
    before, after = load_lm(start)[0], adapters.apply(load_lm(start)[0], tmp_path / "arm")
    ids = torch.arange(2, 9)[None]
    assert (before(input_ids=ids).logits - after(input_ids=ids).logits).abs().max() > 1e-3


def test_untrained_adapters_are_refused(start, tmp_path):
    write(load_lm(start)[0], tmp_path / "arm", trained=False)
    with pytest.raises(ValueError, match="change no weight: they are untrained"):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")


def test_adapters_of_another_class_are_refused(start, tmp_path):
    write(load_encoder(start)[0], tmp_path / "arm", task="FEATURE_EXTRACTION")
    with pytest.raises(ValueError, match="change no weight"):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")


@pytest.mark.filterwarnings("ignore")  # of peft's, on tied weights
def test_adapters_of_a_tied_head_are_refused(start, tmp_path):
    write(load_lm(start)[0], tmp_path / "arm", targets=["lm_head"])
    with pytest.raises(ValueError, match="tied embeddings"):
        adapters.apply(load_lm(start)[0], tmp_path / "arm")
