"""Terms of the glossary in the text of a page: each links there where it is first named, with its definition."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from docutils import nodes
from sphinx import addnodes

from hrsa.report.book.merged import VARIANT

GLOSSARY = "glossary"  # the page, and the term's link `glossary.html#term-...`
LINKED_TERM = "hrsa-term"  # class of such a link: _static/hrsa.js shows its definition under pointer and focus
_KEPT = (nodes.title, nodes.reference, nodes.literal, nodes.FixedTextElement, nodes.raw, nodes.math, nodes.citation)
_OF_RUN = re.compile(f"tag_{VARIANT.format('.*')}")  # myst-nb's class of a cell that belongs to one run


class _Entry(NamedTuple):
    """What a glossary says of a term; words that mean the same have one entry."""

    anchor: str
    definition: str


def glossary_entries(page: nodes.document) -> dict[str, _Entry]:
    """Every term of a glossary page, in lower case, with its entry."""
    found = {}
    for glossary in page.findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            terms = list(item.findall(nodes.term))
            said = " ".join(next(item.findall(nodes.definition)).astext().split())
            found |= {_plain(term.astext()): _Entry(terms[0]["ids"][0], said) for term in terms}
    return found


def _plain(term: str) -> str:
    """A term as it is looked up: in lower case, on one line, with plain quotes."""
    return " ".join(term.lower().replace("\u2019", "'").split())


def link_terms(app: Any, page: nodes.document, name: str) -> None:
    """Sphinx's "doctree-resolved": link the first mention of each term of the glossary in the text of a page.

    Headings, links and code stay as they are. Of the cells of one run, which a menu hides, each run has a first mention
    of its own where no other text has one before.
    """
    if name == GLOSSARY or GLOSSARY not in app.env.all_docs:
        return
    entries = glossary_entries(app.env.get_doctree(GLOSSARY))
    words = "|".join(re.escape(term).replace(r"\ ", r"\s+").replace("'", "['\u2019]")
                     for term in sorted(entries, key=len, reverse=True))  # the longest that fits
    pattern = re.compile(rf"(?<![\w-])(?:{words})(?![\w-])", re.I)
    address = app.builder.get_relative_uri(name, GLOSSARY)
    linked: dict[str, set[str]] = defaultdict(set)  # "" for all runs, or the class of one -> anchors
    for text in _texts_of(page):
        around = list(_around(text))
        if any(isinstance(node, _KEPT) for node in around):
            continue
        run = next((name for node in around for name in node.get("classes", ()) if _OF_RUN.fullmatch(name)), "")
        parts, at = [], 0
        for found in pattern.finditer(text):
            entry = entries[_plain(found[0])]
            if entry.anchor in linked[""] | linked[run]:
                continue
            linked[run].add(entry.anchor)
            parts += [nodes.Text(text[at:found.start()]),
                      nodes.reference("", found[0], internal=True, refuri=f"{address}#{entry.anchor}",
                                      reftitle=entry.definition, classes=[LINKED_TERM])]
            at = found.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[at:])])


def _texts_of(page: nodes.document) -> list[nodes.Text]:
    """The texts of a page, joined where only the end of a line is between them."""
    for element in page.findall(nodes.TextElement):
        joined: list[nodes.Node] = []
        for child in element:
            if joined and isinstance(child, nodes.Text) and isinstance(joined[-1], nodes.Text):
                joined[-1] = nodes.Text(joined[-1] + child)
            else:
                joined.append(child)
        if len(joined) < len(element):
            element[:] = joined
    return list(page.findall(nodes.Text))


def _around(node: nodes.Node) -> Iterator[nodes.Element]:
    while node.parent is not None:
        node = node.parent
        yield node
