"""Similarity of two models' token states: functions of (n, d_x) and (n, d_y) arrays, numpy or torch.

Values depend on the arguments alone; chance comes from the generator that is given. What is written is partial sums, in
the work folder that `compare_layers` is given, and they go when it is done. `METRICS` registers every metric: its name,
range and direction, and what it is invariant to; `compare_layers` gives all of them for all layers. Names are imported
when they are asked for: `from hrsa.similarity import linear_cka` needs numpy and no other library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrsa.similarity.cka import linear_cka
    from hrsa.similarity.layers import compare_arrays, compare_layers
    from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS, ON_REQUEST, Metric, shown_k
    from hrsa.similarity.probe import fit_probe
    from hrsa.similarity.states import open_states

__all__ = [
    "METRICS", "METRIC_FAMILIES", "ON_REQUEST", "Metric", "compare_arrays", "compare_layers", "fit_probe",
    "linear_cka", "open_states", "shown_k",
]
_HOMES = {"cka": ("linear_cka",), "layers": ("compare_arrays", "compare_layers"), "probe": ("fit_probe",),
          "metrics": ("METRICS", "METRIC_FAMILIES", "ON_REQUEST", "Metric", "shown_k"), "states": ("open_states",)}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: choose one of {__all__}")


def __dir__() -> list[str]:
    return sorted(__all__)
