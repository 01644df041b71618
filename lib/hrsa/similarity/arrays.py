"""What all metrics share: checked input arrays, and the record in which a metric declares what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hrsa.similarity.backend import Array, host, is_tensor, stays, wide

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


def floats(x: Any) -> Array:
    """An array of float32 (from bf16, float16 and float32) or float64 (from the rest); values unchanged.

    Takes numpy arrays, memory maps, torch tensors and nested lists; copies only to change the type. The result is a
    numpy array, but for torch tensors on an accelerator, which stay there.
    """
    if is_tensor(x):
        x = x.detach()
        if x.is_complex():
            raise ValueError(f"expected an array of real numbers, got dtype {x.dtype}")
        narrow = str(x.dtype) in ("torch.bfloat16", "torch.float16", "torch.float32")
        x = x.float() if narrow else x.double()
        return x if stays(x) else x.numpy()
    x = np.asarray(x)
    if x.dtype == object or x.dtype.kind in "USMmc":
        raise ValueError(f"expected an array of real numbers, got dtype {x.dtype}")
    narrow = x.dtype.name in ("bfloat16", "float16", "float32")
    return np.asarray(x, dtype=np.float32 if narrow else np.float64)


def check_finite(x: Array, name: str, first_row: int = 0) -> None:
    """Raise ValueError naming the first NaN or Inf of a (n, d) array, rows counted from `first_row`."""
    with np.errstate(invalid="ignore", over="ignore"):
        if x.isfinite().all() if is_tensor(x) else np.isfinite(x.sum(dtype=np.float64)):
            return
    bad = ~np.isfinite(host(x))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"expected finite numbers, got {float(x[row, column])} at {name}[{row + first_row}, {column}] "
            f"({int(bad.sum())} such entries): find out which text and layer overflowed, or leave it out"
        )


def matrix(x: Any, name: str) -> Array:
    """A finite (n, d) array of float32 or float64, or ValueError naming shape or place."""
    x = floats(x)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"expected {name} of shape (n tokens, d dimensions), got shape {tuple(x.shape)}")
    check_finite(x, name)
    return x


def pair(x: Any, y: Any, at_least: int, same_width: bool = False) -> tuple[Array, Array]:
    """Two checked arrays (n, d_x), (n, d_y) in float64 with n >= `at_least`; ValueError names both shapes."""
    x, y = matrix(x, "x"), matrix(y, "y")
    shapes = f"got x {tuple(x.shape)} and y {tuple(y.shape)}"
    if len(x) != len(y):
        raise ValueError(f"expected the same n tokens in x and y, {shapes}: record both models on the same tokens")
    if len(x) < at_least:
        raise ValueError(f"expected at least {at_least} tokens, {shapes}")
    if same_width and x.shape[1] != y.shape[1]:
        raise ValueError(f"expected the same d dimensions in x and y, {shapes}: use a metric that allows "
                         "unequal widths, such as linear_cka")
    if is_tensor(x) != is_tensor(y) or (is_tensor(x) and x.device != y.device):
        raise ValueError(f"expected x and y on one device, got {place(x)} and {place(y)}: move one of them")
    return wide(x), wide(y)


def place(x: Array) -> str:
    """Where an array is, in words."""
    return str(x.device) if is_tensor(x) else "main memory"


def centred(x: Array) -> Array:
    """`x` (n, d) less its column means; a constant column becomes exactly zero."""
    constant = (x == x[:1]).all(0)
    x = x - x.mean(0)
    x[:, constant] = 0.0
    return x
