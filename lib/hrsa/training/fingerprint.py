"""The fingerprint of a training run: what it consumed and did, as hashes, by which arms of one seed are compared.

The arms of a seed are comparable when their fingerprints agree in all but what each starts from: its backbone's
weights, tokenizer and size. `same_recipe` demands it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pandas as pd

from hrsa.study.profile import Recipe
from hrsa.training import distributed

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LIBRARIES = ("torch", "transformers", "sentence-transformers", "accelerate", "peft", "tokenizers", "datasets", "numpy")
MAX_GRAD_NORM = 1.0  # largest norm of the gradient, as the trainer of the published recipe has it by default
START = "start"  # the section in which arms of a seed may differ


def text_hash(parts: Iterable[str]) -> str:
    """SHA-256 of a sequence of texts, hexadecimal; where one ends and the next begins counts.

    >>> text_hash(["ab", "c"]) == text_hash(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        coded = part.encode()
        digest.update(len(coded).to_bytes(8, "little") + coded)
    return digest.hexdigest()


def weights_hash(model: SentenceTransformer) -> str:
    """SHA-256 over the names and bytes of all weights, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def start_of(model: SentenceTransformer, backbone: str) -> dict[str, Any]:
    """What an arm starts from: its name, the hash of its weights and of its tokenizer, its size."""
    return {"backbone": backbone, "weights": weights_hash(model),
            "tokenizer": text_hash([model.tokenizer.backend_tokenizer.to_str()]),
            "parameters": sum(p.numel() for p in model.parameters())}


def run_fingerprint(curve: pd.DataFrame, recipe: Recipe, seed: int, start: dict[str, Any], code: str) -> dict[str, Any]:
    """The fingerprint of one training run, as JSON.

    curve: one row per step with `batch` (hash of the queries, positives and negatives that the step consumed, in
    order, over all processes, so that their number does not change it) and `learning_rate`. start:
    from `start_of`, taken before training; code: the hash of the code that trained.
    """
    return {
        "data": text_hash(curve["batch"]),
        "learning_rate": text_hash(float(x).hex() for x in curve["learning_rate"]),
        "steps": len(curve),
        "processes": distributed.count(),
        "seed": seed,
        "recipe": recipe.model_dump(mode="json"),
        "pooling": {"mode": recipe.pooling, "include_prompt": False},
        "optimiser": {"name": "AdamW", "schedule": "cosine", "clip": MAX_GRAD_NORM},
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "code": code,
        START: start,
    }


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    result: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def same_recipe(fingerprints: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the fields in which all runs agree; ValueError names the first in which they do not.

    fingerprints: model id -> fingerprint, of arms of one seed. What an arm starts from is not compared.

    >>> base = {"data": "1f", "recipe": {"steps": 40}, "start": {"backbone": "base"}}
    >>> same_recipe({"base-s0": base, "rlvr-s0": base | {"start": {"backbone": "rlvr"}}})
    ['data', 'recipe.steps']
    """
    if not fingerprints:
        raise ValueError("expected at least one fingerprint, got none: train an embedder first")
    tables = {model: {k: v for k, v in flat(content).items() if not k.startswith(f"{START}.")}
              for model, content in fingerprints.items()}
    names = sorted(set().union(*tables.values()))
    first = next(iter(tables))
    for name in names:
        for model, table in tables.items():
            if table.get(name) != tables[first].get(name):
                raise ValueError(
                    f"expected arms of one seed to agree in all but what they start from, got another {name} in "
                    f"{model} ({table.get(name)!r}) than in {first} ({tables[first].get(name)!r}): train both again "
                    "with one recipe, one version of the code and one environment")
    return names
