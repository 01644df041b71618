"""CardGrid: findings side by side, each with its outcomes as a mark and a word, so that no one depends on colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hrsa.report.foreign import as_html


@dataclass(frozen=True)
class Outcome:
    """One line of a card: of what, the word, and the measured value."""

    label: str
    word: str
    value: str = ""


@dataclass(frozen=True)
class Card:
    """A finding: title, what it is measured by, what was published, its outcomes, and where the evidence stands."""

    title: str
    measured_by: str
    published: str
    outcomes: tuple[Outcome, ...]
    link: tuple[str, str]  # (address, words)


@dataclass(frozen=True, repr=False)
class CardGrid:
    """CardGrid ready to show; `marks`: word -> the mark before it."""

    cards: tuple[Card, ...]
    marks: Mapping[str, str]

    def __repr__(self) -> str:
        lines = []
        for card in self.cards:
            lines.append(f"{card.title} ({card.measured_by}; published: {card.published})")
            lines += [f"  {self.marks[o.word]} {o.word}: {o.label} {o.value}".rstrip() for o in card.outcomes]
        return "\n".join(lines)

    def html(self) -> str:
        """The cards as a list; class `hrsa-cards` is styled by the book."""
        return f'<ul class="hrsa-cards">{"".join(map(self._card, self.cards))}</ul>'

    def _card(self, card: Card) -> str:
        outcomes = "".join(
            f'<li class="hrsa-{o.word.replace(" ", "-")}"><strong><span aria-hidden="true">{self.marks[o.word]}</span> '
            f"{as_html(o.word)}</strong> {as_html(o.label)} {as_html(o.value)}</li>" for o in card.outcomes)
        address, words = card.link
        return (f'<li class="hrsa-card"><p class="hrsa-claim">{as_html(card.title)}</p>'
                f"<p>{as_html(card.measured_by)}. Published: {as_html(card.published)}.</p><ul>{outcomes}</ul>"
                f'<p><a href="{as_html(address)}">{as_html(words)}</a></p></li>')

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": repr(self)}


def cards(found: Sequence[Card], marks: Mapping[str, str]) -> CardGrid:
    """Show findings as cards. ValueError: none, one without outcomes, or a word without a mark."""
    if not found:
        raise ValueError("expected at least one card, got none")
    for card in found:
        unknown = [o.word for o in card.outcomes if o.word not in marks]
        if not card.outcomes or unknown:
            raise ValueError(f"expected outcomes among {sorted(marks)} on card {card.title!r}, got {unknown or 'none'}")
    return CardGrid(tuple(found), dict(marks))
