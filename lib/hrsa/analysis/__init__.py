"""HRSA of recorded models: hidden states, pairs layer by layer, probes, dynamics, ablations, robustness."""
