"""Readers of the packages that the text suite is made from; run by `data/build_suite.py`."""
