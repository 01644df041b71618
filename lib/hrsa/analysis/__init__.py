"""HRSA of recorded models: hidden states, pairs layer by layer, probes, dynamics, ablations, robustness."""

from hrsa.analysis.ablations import (
    LIKENESS,
    LIKENESS_COLUMNS,
    RECIPE,
    UNTRAINED,
    ablations_of,
    changed_settings,
    make_likeness,
)
from hrsa.analysis.dynamics import DYNAMICS, make_dynamics
from hrsa.analysis.intervals import over_seeds, read_over_seeds, yardsticks
from hrsa.analysis.pairs import PairTable, make_comparison

__all__ = ["DYNAMICS", "LIKENESS", "LIKENESS_COLUMNS", "RECIPE", "UNTRAINED", "PairTable", "ablations_of",
           "changed_settings", "make_comparison", "make_dynamics", "make_likeness", "over_seeds", "read_over_seeds",
           "yardsticks"]
