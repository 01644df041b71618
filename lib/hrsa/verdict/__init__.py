"""Decisions: equivalence tests, the crossed bootstrap, power, claims, evidence files. No sentences."""
