"""HRSA of recorded models: hidden states, pairs layer by layer, probes, dynamics, ablations, robustness, `explore/`."""

from hrsa.analysis.ablations import RECIPE, UNTRAINED, ablations_of, changed_settings
from hrsa.analysis.dynamics import BOTH_ARMS, DYNAMICS, ITSELF, make_dynamics
from hrsa.analysis.explore.neighbourhoods import NeighbourTable, make_changed_neighbours
from hrsa.analysis.intervals import over_seeds, read_over_seeds, yardsticks
from hrsa.analysis.manifold import SHAPES, make_pair_shapes
from hrsa.analysis.pairs import PairTable, make_comparison

__all__ = ["BOTH_ARMS", "DYNAMICS", "ITSELF", "RECIPE", "SHAPES", "UNTRAINED", "NeighbourTable", "PairTable",
           "ablations_of", "changed_settings", "make_changed_neighbours", "make_comparison", "make_dynamics",
           "make_pair_shapes", "over_seeds", "read_over_seeds", "yardsticks"]
