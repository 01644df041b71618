"""Every sentence that the report makes from data: each chosen by a test of the tables it speaks of."""

from hrsa.report.prose import (
    answer,
    backbones,
    paper,
    robustness,
    scores,
    similarity,
    texts,
    training,
    verdict,
    yardsticks,
)

__all__ = ["answer", "backbones", "paper", "robustness", "scores", "similarity", "texts", "training", "verdict",
           "yardsticks"]
