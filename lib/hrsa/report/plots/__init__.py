"""Tidy table in, figure out: interactive (plotly) and static (matplotlib), in one style.

Every function takes a tidy table (one row per mark) and returns a `Drawing`, which shows itself in Jupyter and is
exported by `.publish(profile, chapter, name, alt)`. `style` holds colour scales by quantity and hues by name.
"""

from hrsa.report.plots.cards import cards
from hrsa.report.plots.categorical import bars, film, forest, heatmap
from hrsa.report.plots.choices import Block, Choices, choices
from hrsa.report.plots.continuous import curves, histogram, scatter
from hrsa.report.plots.drawing import Drawing
from hrsa.report.plots.tables import Table, table

__all__ = ["Block", "Choices", "Drawing", "Table", "bars", "cards", "choices", "curves", "film", "forest", "heatmap",
           "histogram", "scatter", "table"]
