"""Similarity of two models' token states: pure functions of (n, d_x) and (n, d_y) arrays, numpy or torch.

Each metric declares in `METRICS` what it is invariant to; `compare_layers` gives all of them for all layers.
"""

from hrsa.similarity.arrays import Metric
from hrsa.similarity.cka import METRICS as _CKA
from hrsa.similarity.cka import debiased_cka, linear_cka
from hrsa.similarity.correlation import METRICS as _CORRELATION
from hrsa.similarity.correlation import dimension_correlation, mean_correlation
from hrsa.similarity.knn import METRICS as _KNN
from hrsa.similarity.knn import Neighbours, knn_overlap, neighbours, overlap
from hrsa.similarity.layers import compare_layers
from hrsa.similarity.pairs import Estimate, minibatch_cka, minibatch_estimate
from hrsa.similarity.probe import Probe, fit_probe, fit_probes
from hrsa.similarity.procrustes import METRICS as _PROCRUSTES
from hrsa.similarity.procrustes import Procrustes, procrustes
from hrsa.similarity.states import open_states

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_CORRELATION, *_PROCRUSTES, *_CKA, *_KNN)}

__all__ = [
    "METRICS", "Estimate", "Metric", "Neighbours", "Probe", "Procrustes", "compare_layers", "debiased_cka",
    "dimension_correlation", "fit_probe", "fit_probes", "knn_overlap", "linear_cka", "mean_correlation",
    "minibatch_cka", "minibatch_estimate", "neighbours", "open_states", "overlap", "procrustes",
]
