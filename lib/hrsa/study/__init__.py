"""What is studied and where it is kept: the profile, its sections, artefacts, partial work, progress."""

from hrsa.study.profile import load_profile

__all__ = ["load_profile"]
