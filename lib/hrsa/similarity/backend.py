"""The few operations that numpy and torch spell differently, so that one kernel serves both.

A torch tensor on an accelerator stays there: blocks are centred and multiplied where they are, and only small sums come
back to the host. A torch tensor in main memory is read as a numpy array over the same memory, without a copy. Tests
run every path on tensors that are treated as a device's and, like those, refuse to become arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or torch.Tensor


def stays(x: Any) -> bool:
    """Whether `x` is a torch tensor outside main memory, to be worked on where it is."""
    return is_tensor(x) and x.device.type != "cpu"


def is_tensor(x: Any) -> bool:
    """Whether `x` is a torch tensor; torch itself need not be imported for this."""
    return hasattr(x, "detach") and hasattr(x, "device")


def host(x: Array) -> np.ndarray:
    """`x` as a numpy array in main memory."""
    return x.detach().cpu().numpy() if is_tensor(x) else np.asarray(x)


def beside(values: np.ndarray, x: Array) -> Array:
    """A host array as one of the kind of `x` and where `x` is: float64 stays so, other dtypes too."""
    if not is_tensor(x):
        return values
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).to(x.device)


def wide(x: Array) -> Array:
    """`x` in float64; no copy where it is already."""
    return x.double() if is_tensor(x) else x.astype(np.float64, copy=False)


def narrow(x: Array) -> Array:
    """`x` in float32; no copy where it is already."""
    return x.float() if is_tensor(x) else x.astype(np.float32, copy=False)


def as_kind(values: Array, x: Array) -> Array:
    """`values` in the dtype of `x`."""
    return values.to(x.dtype) if is_tensor(x) else values.astype(x.dtype, copy=False)


def zeros(shape: tuple[int, ...], x: Array) -> Array:
    """Zeros in float64 of the kind of `x` and where `x` is."""
    return x.new_zeros(shape, dtype=x.double().dtype) if is_tensor(x) else np.zeros(shape)


def stack(parts: list[Array]) -> Array:
    """Arrays of one shape joined along a new first axis."""
    if not is_tensor(parts[0]):
        return np.stack(parts)
    import torch

    return torch.stack(parts)


def joined(parts: list[Array]) -> Array:
    """Arrays joined along their first axis."""
    if not is_tensor(parts[0]):
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    import torch

    return torch.cat(parts)


def beside_each_other(parts: list[Array]) -> Array:
    """Arrays (n, d_i) joined along their second axis."""
    if not is_tensor(parts[0]):
        return np.hstack(parts)
    import torch

    return torch.cat(parts, dim=1)


def flip_last(x: Array) -> Array:
    """`x` with its last two axes exchanged, without a copy."""
    return x.mT if is_tensor(x) else np.swapaxes(x, -1, -2)


def sum_wide(x: Array, axis: int | None = None) -> np.ndarray:
    """Sum over `axis` (all when None), in float64, on the host."""
    if not is_tensor(x):
        return x.sum(axis=axis, dtype=np.float64)
    return host(x.double().sum() if axis is None else x.double().sum(dim=axis))


def inner(a: Array, b: Array) -> Array:
    """Sum over the last axis of the products of two arrays of one shape, in their own dtype."""
    if not is_tensor(a):
        return np.einsum("...i,...i->...", a, b)
    return (a * b).sum(-1)


def svd(x: Array) -> tuple[Array, np.ndarray, Array]:
    """Thin singular value decomposition; the singular values come to the host."""
    if not is_tensor(x):
        return np.linalg.svd(x, full_matrices=False)
    import torch

    u, s, v = torch.linalg.svd(x, full_matrices=False)
    return u, host(s), v


def singular_values(x: Array) -> np.ndarray:
    """Singular values, on the host."""
    if not is_tensor(x):
        return np.linalg.svd(x, compute_uv=False)
    import torch

    return host(torch.linalg.svdvals(x))


def symmetric_eigenvalues(x: Array) -> np.ndarray:
    """Eigenvalues of a symmetric array, on the host."""
    if not is_tensor(x):
        return np.linalg.eigvalsh(x)
    import torch

    return host(torch.linalg.eigvalsh(x))


def eigenvectors(x: Array) -> tuple[Array, Array]:
    """Eigenvalues, rising, and eigenvectors, as columns, of a symmetric array."""
    if not is_tensor(x):
        return np.linalg.eigh(x)
    import torch

    return torch.linalg.eigh(x)
