"""Tables of which one group is shown, chosen by menus or by a click on the figure they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hrsa.report.foreign import as_html
from hrsa.report.plots.tables import Table


@dataclass(frozen=True)
class Block:
    """Tables of one place in a figure: the series and the category that a click hits, what they are, and they."""

    models: str
    state: str
    said: str
    tables: tuple[Table, ...]


@dataclass(frozen=True, repr=False)
class Choices:
    """Blocks ready to show; `figure` is the end of the published figure's name, as in "08_knn/base-vs-rlvr/overlap"."""

    blocks: tuple[Block, ...]
    figure: str

    def __repr__(self) -> str:
        return "\n\n".join(f"{block.said}\n" + "\n".join(map(repr, block.tables)) for block in self.blocks)

    def html(self) -> str:
        """The blocks, each folded; class `hrsa-choices` gets its menus from the book, which shows one at a time."""
        parts = "\n".join(
            f'<details data-models="{as_html(block.models)}" data-state="{as_html(block.state)}">'
            f"<summary>{as_html(block.said)}</summary>\n{''.join(table.html() for table in block.tables)}</details>"
            for block in self.blocks)
        return f'<div class="hrsa-choices" data-figure="{as_html(self.figure)}">\n{parts}\n</div>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": repr(self)}


def choices(blocks: Sequence[Block], figure: str) -> Choices:
    """Show one of several groups of tables. ValueError: none, or two for one place."""
    places = [(block.models, block.state) for block in blocks]
    if not blocks or len(set(places)) < len(places):
        raise ValueError(f"expected at least one block and one for each place, got {places}")
    return Choices(tuple(blocks), figure)
