"""Arrays of numpy and torch as the metrics take them: checked, and the few operations that the two spell differently.

A torch tensor on an accelerator stays there: blocks are centred and multiplied where they are, and small sums come back
to the host. A torch tensor in main memory is read as a numpy array over the same memory, without a copy. Tests run
every path on tensors that are treated as a device's and, like those, refuse to become arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or torch.Tensor
_LARGEST = 1e8  # of a state: models in use stay below a million


def is_tensor(x: Any) -> bool:
    """Whether `x` is a torch tensor; torch itself need not be imported for this."""
    return hasattr(x, "detach") and hasattr(x, "device")


def on_accelerator(x: Any) -> bool:
    """Whether `x` is a torch tensor outside main memory, to be worked on where it is."""
    return is_tensor(x) and x.device.type != "cpu"


def device_name(x: Array) -> str:
    """Where an array is, in words."""
    return str(x.device) if on_accelerator(x) else "main memory"


def as_floats(x: Any) -> Array:
    """An array of float32 (from bf16, float16 and float32) or float64 (from the rest); values unchanged.

    Takes numpy arrays, memory maps, torch tensors and nested lists; copies to change the type alone. The result is a
    numpy array, but for torch tensors on an accelerator, which stay there. ValueError: no real numbers.
    """
    if is_tensor(x):
        x = x.detach()
        if x.is_complex():
            raise ValueError(f"expected an array of real numbers, got dtype {x.dtype}: take its real part")
        single = str(x.dtype) in ("torch.bfloat16", "torch.float16", "torch.float32")
        x = x.float() if single else x.double()
        return x if on_accelerator(x) else x.numpy()
    x = np.asarray(x)
    if x.dtype == object or x.dtype.kind in "USMmc":
        raise ValueError(f"expected an array of real numbers, got dtype {x.dtype}: convert it first")
    single = x.dtype.name in ("bfloat16", "float16", "float32")
    return np.asarray(x, dtype=np.float32 if single else np.float64)


def matrix(x: Any, name: str) -> Array:
    """A finite (n, d) array of float32 or float64, or ValueError naming shape or place."""
    x = as_floats(x)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"expected {name} of shape (n tokens, d dimensions), got shape {tuple(x.shape)}")
    check_finite(x, name)
    return x


def check_finite(x: Array, name: str, first_row: int = 0) -> None:
    """Raise ValueError naming the first NaN, Inf or number beyond 1e8 of a (n, d) array, rows counted from `first_row`:
    products of such numbers' products are none in float32."""
    if float(x.min()) >= -_LARGEST and float(x.max()) <= _LARGEST:  # NaN is neither
        return
    bad = ~(np.abs(to_numpy(x)) <= _LARGEST)
    row, column = np.argwhere(bad)[0]
    raise ValueError(f"expected finite numbers of at most {_LARGEST:g}, got {float(x[row, column])} at "
                     f"{name}[{row + first_row}, {column}] ({int(bad.sum())} such entries): find out which text and "
                     "layer overflowed, or leave it out")


def to_numpy(x: Array) -> np.ndarray:
    """`x` as a numpy array in main memory."""
    return x.detach().cpu().numpy() if is_tensor(x) else np.asarray(x)


def asarray_like(values: np.ndarray, x: Array) -> Array:
    """A numpy array as one of the kind of `x` and where `x` is; its dtype stays."""
    if not is_tensor(x):
        return values
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).to(x.device)


def to_float64(x: Array) -> Array:
    """`x` in float64; no copy where it is already."""
    return x.double() if is_tensor(x) else x.astype(np.float64, copy=False)


def to_float32(x: Array) -> Array:
    """`x` in float32; no copy where it is already."""
    return x.float() if is_tensor(x) else x.astype(np.float32, copy=False)


def astype_like(values: Array, x: Array) -> Array:
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


def concatenate(parts: list[Array]) -> Array:
    """Arrays joined along their first axis."""
    if not is_tensor(parts[0]):
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    import torch

    return torch.cat(parts)


def hstack(parts: list[Array]) -> Array:
    """Arrays (n, d_i) joined along their second axis."""
    if not is_tensor(parts[0]):
        return np.hstack(parts)
    import torch

    return torch.cat(parts, dim=1)


def matrix_transpose(x: Array) -> Array:
    """`x` with its last two axes exchanged, without a copy."""
    return x.mT if is_tensor(x) else np.swapaxes(x, -1, -2)


def sum_float64(x: Array, axis: int | None = None) -> np.ndarray:
    """Sum over `axis` (all when None), in float64, on the host."""
    if not is_tensor(x):
        return x.sum(axis=axis, dtype=np.float64)
    return to_numpy(x.double().sum() if axis is None else x.double().sum(dim=axis))


def vecdot(a: Array, b: Array) -> Array:
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
    return u, to_numpy(s), v
