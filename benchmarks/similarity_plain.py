"""The straightforward way, written from the definitions: full arrays in memory, one layer pair at a time, and peers.

Nothing is shared between layer pairs: every pair is centred and multiplied anew. Types are those of the arrays given.
"""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Callable

import numpy as np
import torch

KS = (5, 10, 50)
CHUNK = 1024  # tokens whose cosines are held at once
PEERS = {
    "ckatorch": "pip install ckatorch",
    "pytorch-cka": "pip install pytorch-cka",
}
LEFT_OUT = {
    "repsim 0.1.5": "a source package with a C++ extension, which does not build here",
    "cka-pytorch 1.1.3, torch-cka 0.21": "take models and a data loader, not states",
    "rsatoolbox 0.3.2": "dissimilarity matrices and their correlation, none of these metrics",
    "similarity-repository 0.0.1": "wraps other repositories, which are to be installed first",
    "netrep, anatome": "not on the package index",
}


def cka_of_features(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def cka_of_grams(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Biased and debiased, from token-by-token matrices."""
    x, y = x - x.mean(0), y - y.mean(0)
    k, m = x @ x.T, y @ y.T
    biased = (k * m).sum() / (np.linalg.norm(k) * np.linalg.norm(m))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    n = len(k)

    def hsic(a, b):
        whole, rows = float(a.sum()) * float(b.sum()), float(a.sum(0) @ b.sum(0))
        return float((a * b).sum()) + whole / (n - 1) / (n - 2) - 2 / (n - 2) * rows

    return biased, hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def centred_with_norm(x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """What the code published with arXiv 2601.21192 computes once per layer."""
    part = torch.from_numpy(x)
    part = part - part.mean(0)
    return part, torch.linalg.norm(part.T @ part)


def cka_as_published(x: tuple[torch.Tensor, torch.Tensor], y: tuple[torch.Tensor, torch.Tensor]) -> float:
    """What that code does per layer pair: one product, then a collection of garbage."""
    value = (torch.linalg.norm(x[0].T @ y[0]) ** 2 / (x[1] * y[1])).item()
    gc.collect()
    return value


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    return (x * y).mean(0).mean()


def knn(x: np.ndarray, y: np.ndarray) -> list[float]:
    near = []
    for part in (x, y):
        unit = torch.nn.functional.normalize(torch.from_numpy(part), dim=1)
        found = []
        for start in range(0, len(unit), CHUNK):
            cosine = unit[start : start + CHUNK] @ unit.T
            cosine[torch.arange(len(cosine)), start + torch.arange(len(cosine))] = -2
            found.append(torch.topk(cosine, max(KS), dim=1).indices)
        near.append(torch.cat(found))
    values = []
    for k in KS:
        shared = (near[0][:, :k, None] == near[1][:, None, :k]).any(dim=2).sum(dim=1)  # compares (n, k, k)
        values.append(float((shared / (2 * k - shared)).mean()))
    return values


def knn_in_float64(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Jaccard index (r, len(KS)) of some rows, all cosines in float64, ties to the lower row."""
    near = []
    for part in (x.astype(float), y.astype(float)):
        unit = part / np.sqrt(np.square(part).sum(axis=1))[:, None]
        cosine = unit[rows] @ unit.T
        cosine[np.arange(len(rows)), rows] = -np.inf
        near.append(np.array([np.lexsort((np.arange(len(unit)), -line))[: max(KS)] for line in cosine]))
    return np.array([[len(set(p[:k]) & set(q[:k])) / len(set(p[:k]) | set(q[:k])) for k in KS]
                     for p, q in zip(*near, strict=True)])


def procrustes(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    u, _, v = np.linalg.svd(x.T @ y)
    return float(np.linalg.norm(x @ (u @ v) - y) ** 2 / np.linalg.norm(y) ** 2)


def peers() -> dict[str, Callable[[list[np.ndarray], list[np.ndarray], list[tuple[int, int]]], object]]:
    """What is installed of `PEERS`, by name and version: functions of layers and the pairs wanted."""
    found = {}
    for name in PEERS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[f"{name} {version}"] = _ckatorch if name == "ckatorch" else _pytorch_cka
    return found


def _ckatorch(xs, ys, pairs):
    from ckatorch.core import cka_base

    return [cka_base(torch.from_numpy(xs[i]), torch.from_numpy(ys[j]), "linear", unbiased=True, method="hsic").item()
            for i, j in pairs]


def _pytorch_cka(xs, ys, pairs):
    from cka import cka_from_features

    table = cka_from_features([torch.from_numpy(x) for x in xs], [torch.from_numpy(y) for y in ys])
    return [float(table[i, j]) for i, j in pairs]
