"""Similarity of two models' token states: functions of (n, d_x) and (n, d_y) arrays, numpy or torch.

Values depend on the arguments alone; chance comes from the generator that is given. What is written is partial sums, in
the work folder that `compare_layers` is given, and they go when it is done. `METRICS` registers every metric: its name,
range and direction, and what it is invariant to; `compare_layers` gives all of them for all layers.
"""

from hrsa.similarity.layers import compare_arrays, compare_layers
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS, ON_REQUEST, Metric, shown_k
from hrsa.similarity.probe import fit_probe
from hrsa.similarity.states import open_states

__all__ = [
    "METRICS", "METRIC_FAMILIES", "ON_REQUEST", "Metric", "compare_arrays", "compare_layers", "fit_probe",
    "open_states", "shown_k",
]
