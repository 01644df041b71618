"""Decisions: equivalence tests, the crossed bootstrap, power, claims, evidence files.

Chapters take its modules from here, `from hrsa.verdict import claims, synthesis`, and the test itself, `verdict`.
"""

from hrsa.verdict.equivalence import verdict

__all__ = ["verdict"]
