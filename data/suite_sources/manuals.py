"""Reference works and manuals: Gene Ontology, PostgreSQL and LibreOffice for training, Perl for evaluation."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import defaultdict
from pathlib import Path

from suite_sources.fetch import Sources
from suite_sources.pieces import Card, Evaluation, Training, clip, html_text, norm, retrieval, share, words

# Not part of the manual's own text: licence texts, indexes, translations, one page under a licence of its own.
PERL_SKIPPED = r"perl(\d|hist|cn|jp|ko|tw|gpl|artistic|podstyle|toc$|func$)|.*delta$"


def gene_ontology(sources: Sources) -> Training:
    """Names and synonyms of processes, functions and cell parts, with their definitions."""
    file = sources.debian("r-bioc-go.db") / "usr/lib/R/site-library/GO.db/extdata/GO.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as base:
        synonyms = defaultdict(list)
        for term, synonym in base.execute("select _id, synonym from go_synonym where like_go_id = 0 order by 1, 2"):
            synonyms[term].append(synonym)
        terms = base.execute("select _id, term, definition from go_term where definition is not null").fetchall()
    pairs = []
    for number, term, definition in terms:
        if definition.startswith(("OBSOLETE", "\"OBSOLETE")) or term.startswith("obsolete"):
            continue
        names = sorted(synonyms[number], key=lambda name: share(name, "synonym"))
        use_synonym = names and share(definition, "name") < 0.4
        text = re.sub(r"\s*\[[^\]]*(?:GOC|PMID|ISBN|goc|pmid)[^\]]*\]", "", definition)
        pairs.append((names[0] if use_synonym else term, text.replace("\\", "")))
    card = Card(("r-bioc-go.db",), "CC BY 4.0 (Gene Ontology Consortium, release 2022-07-01)",
                "The name of a term, or for 40% of those that have one a synonym, and its definition. Obsolete terms "
                "are left out.", "Names and definitions share words; many definitions follow a template. The Debian "
                "package wraps the data in an R package under Artistic-2.0.")
    return Training("go_define", "Given the name of a biological process, function or cell component, retrieve its "
                    "definition.", card, pairs)


def postgresql(sources: Sources) -> Training:
    """Section headings and command purposes of the PostgreSQL manual, with the text below."""
    folder = sources.debian("postgresql-doc-15") / "usr/share/doc/postgresql-doc-15/html"
    pairs = []
    for page in sorted(folder.glob("*.html")):
        source = page.read_text(encoding="utf8")
        pairs += _command(source) + _sections(source)
    card = Card(("postgresql-doc-15",), "PostgreSQL licence",
                "The purpose line of a command and its description; the heading of a section and its first 180 words. "
                "Release notes are left out.", "Sections that are mostly code or tables read badly as plain text.")
    return Training("pg_docs", "Given a topic heading, retrieve the section of the database manual about it.",
                    card, pairs)


def _command(source: str) -> list[tuple[str, str]]:
    name = re.search(r'refnamediv"><h2>.*?</h2><p>(.*?)</p>', source, re.S)
    body = re.search(r'<h2>Description</h2>(.*?)<div class="refsect1"', source, re.S)
    if not (name and body):
        return []
    purpose = re.split(r"\s+—\s+", html_text(name.group(1)))
    text = html_text(body.group(1))
    return [(purpose[1], text)] if len(purpose) == 2 and words(text) > 15 else []


def _sections(source: str) -> list[tuple[str, str]]:
    pairs = []
    heading = r'<h[2345] class="title"'
    for part in re.split(f"(?={heading})", source)[1:]:
        title, _, body = part.partition("</div></div>")
        title = re.sub(r"^[A-Z]?[\d.]+\s*", "", html_text(title).replace("#", "").strip())
        body = re.sub(r'<div class="toc">.*?</dl></div>', " ", body, flags=re.S)
        text = html_text(re.split(r'<div class="navfooter"', body)[0])
        if words(text) >= 25 and 2 <= words(title) <= 15 and not title.startswith(("E.", "Release", "Migration to")):
            pairs.append((title, text))
    return pairs


def office(sources: Sources) -> Training:
    """Titles of LibreOffice help pages, with the text of the page."""
    folder = sources.debian("libreoffice-help-en-us") / "usr/share/libreoffice/help/en-US/text"
    pairs = []
    for page in sorted(folder.rglob("*.html")):
        source = page.read_text(encoding="utf8")
        title = re.search(r"<title>(.*?)</title>", source, re.S)
        found = re.findall(r'<p[^>]*class="(?:paragraph|listitem)"[^>]*>(.*?)</p>', source, re.S)
        text = " ".join(p for p in map(html_text, found) if words(p) > 4)
        if title and words(text) >= 20 and 2 <= words(html_text(title.group(1))) <= 15:
            pairs.append((html_text(title.group(1)), text))
    card = Card(("libreoffice-help-en-us",), "MPL-2.0",
                "The title of a help page and the first 180 words of its paragraphs.",
                "Some titles occur in several applications, with different pages.")
    return Training("office_help", "Given a task or feature in an office application, retrieve the help page that "
                    "describes it.", card, pairs)


def _pod(text: str) -> str:
    """Plain text of Perl's documentation markup."""
    text = re.sub(r"[A-Z]<<+\s(.*?)\s>>+", r"\1", text, flags=re.S)
    for _ in range(3):  # codes nest
        text = re.sub(r"\b[BCFISXZE]<([^<>]*)>", r"\1", text)
        text = re.sub(r"\bL<(?:([^<>|]*)\|)?([^<>]*)>", lambda m: m.group(1) or m.group(2), text)
    return norm(re.sub(r"(?m)^=(?:over|back|item|begin|end|for|encoding|cut|pod).*$", "", text))


def perl_faq(sources: Sources) -> Evaluation:
    """Questions of the Perl FAQ against its answers and every other section of the manual."""
    corpus, queries, qrels = {}, {}, {}
    folder = sources.debian("perl-doc") / "usr/share/perl/5.36.0/pod"
    for page in sorted(folder.glob("perl*.pod")):
        if not re.match(PERL_SKIPPED, page.stem):
            _perl_page(page, corpus, queries, qrels)
    card = Card(("perl-doc",), "Artistic or GPL-1+, as Perl",
                "The questions of perlfaq1 to perlfaq9 are the queries; their answers and all other sections of at "
                "least 25 words, cut at 220, are the passages. Pages with licence texts or a licence of their own "
                "are left out.", "A question has one right answer by construction; other passages may help too.")
    return Evaluation("PerlFAQRetrieval", "retrieval", "ndcg_at_10", "Given a question about Perl programming, "
                      "retrieve the documentation passage that answers it.", card, retrieval(corpus, queries, qrels))


def _perl_page(page: Path, corpus: dict, queries: dict, qrels: dict) -> None:
    is_faq = re.match(r"perlfaq\d", page.stem)
    source = page.read_text(encoding="utf8", errors="replace")
    sections = re.finditer(r"^=head([1234]) ([^\n]*)\n(.*?)(?=^=head|\Z)", source, re.S | re.M)
    for number, section in enumerate(sections):
        body = clip(_pod(section.group(3)), 220)
        name = f"{page.stem}-{number}"
        if words(body) < 25 or body in corpus.values():
            continue
        corpus[name] = body
        if is_faq and section.group(1) == "2":
            queries[f"q-{name}"] = _pod(section.group(2))
            qrels[f"q-{name}"] = {name: 1}
