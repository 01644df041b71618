"""What all metrics share: checked input arrays, and the record in which a metric declares what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CHANGES = ("rotation", "scale", "shift", "permutation")


@dataclass(frozen=True)
class Metric:
    """A similarity of two (n, d) arrays and what is claimed of it; tests are generated from these claims.

    `invariant` names the changes of *one* of the two arrays that leave the value as it is: `rotation` (any
    orthogonal map of the dimensions), `scale` (one positive factor for all), `shift` (one vector added to every
    row) and `permutation` (of the dimensions). Any other of `CHANGES` must move it. `identical` is the value of
    an array with itself, `low` and `high` bound the range, `symmetric` says that (x, y) and (y, x) give the same
    value, and `same_width` that d must be equal.
    """

    name: str
    function: Callable[[Any, Any], float]
    invariant: frozenset[str]
    low: float
    high: float
    identical: float
    symmetric: bool
    same_width: bool
    source: str

    def __post_init__(self) -> None:
        unknown = self.invariant - set(CHANGES)
        if unknown:
            raise ValueError(f"metric {self.name}: expected invariances among {CHANGES}, got {sorted(unknown)}")


def floats(x: Any) -> np.ndarray:
    """A numpy array of float32 (from bf16, float16 and float32) or float64 (from the rest); values unchanged.

    Takes numpy arrays, memory maps, torch tensors on any device and nested lists. Copies only to change the type.
    """
    if hasattr(x, "detach"):  # a torch tensor; torch itself need not be imported here
        x = x.detach()
        wide = str(x.dtype) in ("torch.float64", "torch.int64", "torch.int32")
        return (x.double() if wide else x.float()).cpu().numpy()
    x = np.asarray(x)
    if x.dtype == object or x.dtype.kind in "USMmc":
        raise ValueError(f"expected an array of real numbers, got dtype {x.dtype}")
    narrow = x.dtype.name in ("bfloat16", "float16", "float32")
    return np.asarray(x, dtype=np.float32 if narrow else np.float64)


def check_finite(x: np.ndarray, name: str, first_row: int = 0) -> None:
    """Raise ValueError naming the first NaN or Inf of a (n, d) array, rows counted from `first_row`."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(x.sum(dtype=np.float64)):
            return
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"expected finite numbers, got {x[row, column]} at {name}[{row + first_row}, {column}] "
            f"({int(bad.sum())} such entries): find out which text and layer overflowed, or leave it out"
        )


def matrix(x: Any, name: str) -> np.ndarray:
    """A finite (n, d) array of float32 or float64, or ValueError naming shape or place."""
    x = floats(x)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"expected {name} of shape (n tokens, d dimensions), got shape {x.shape}")
    check_finite(x, name)
    return x


def pair(x: Any, y: Any, at_least: int, same_width: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Two checked arrays (n, d_x), (n, d_y) in float64 with n >= `at_least`; ValueError names both shapes."""
    x, y = matrix(x, "x"), matrix(y, "y")
    shapes = f"got x {x.shape} and y {y.shape}"
    if len(x) != len(y):
        raise ValueError(f"expected the same n tokens in x and y, {shapes}: record both models on the same tokens")
    if len(x) < at_least:
        raise ValueError(f"expected at least {at_least} tokens, {shapes}")
    if same_width and x.shape[1] != y.shape[1]:
        raise ValueError(f"expected the same d dimensions in x and y, {shapes}: use a metric that allows "
                         "unequal widths, such as linear_cka")
    return x.astype(np.float64), y.astype(np.float64)


def centred(x: np.ndarray) -> np.ndarray:
    """`x` (n, d) less its column means; a constant column becomes exactly zero."""
    x = x - x.mean(axis=0)
    x[:, np.ptp(x, axis=0) == 0] = 0.0
    return x
