"""The report: executed notebooks become a Jupyter Book that opens from a folder, without a server or a network.

`build(profile)` stages the executed notebooks of one profile with a table of contents made from that profile, builds
them with warnings as errors, and checks the HTML. Named in jupyter_book/_config.yml, this package is also the Sphinx
extension (`setup`), and its `PlotlyRenderer` is what the entry point in pyproject.toml registers with myst-nb.
"""

from hrsa.report.book.extension import PlotlyRenderer, setup
from hrsa.report.book.report import BookError, build
from hrsa.report.book.source import stage, table_of_contents, write_toc
from hrsa.report.prose.run_records import records_page

__all__ = ["BookError", "PlotlyRenderer", "build", "records_page", "setup", "stage", "table_of_contents", "write_toc"]
