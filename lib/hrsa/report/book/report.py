"""Build the HTML of a profile's report, and refuse one that would not be whole."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

from hrsa.report.book.extension import FIGURE
from hrsa.report.book.source import run_again, stage
from hrsa.study import store
from hrsa.study.profile import Profile

JUPYTER_BOOK = (sys.executable, "-c", "from jupyter_book.cli.main import main; main()")
LOADS = {**dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed", "track"), "src"),
         "object": "data", "link": "href"}  # element -> the attribute that it loads
POINTS = {"next", "prev", "search", "index", "canonical", "author", "license", "help"}  # links that load nothing
ELSEWHERE = re.compile(r"(?:https?:)?//[^\"'\s)>]+", re.I)
IN_CODE = re.compile(r"(?:url\(|@import|fetch\(|import\(|importScripts\()\s*[\"'`]?((?:https?:)?//[^\"'`\s)>]+)", re.I)
# An icon of Font Awesome's script: name, other names, outline.
ICON = re.compile(r'("?)([a-z0-9-]+)\1:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')
LINKED = re.compile(r"(?:src|href)=\"(_static/figures/[^\"]+)\"")
log = logging.getLogger(__name__)


class _Loaded(HTMLParser):
    """Collects the addresses elsewhere that a page loads, from its elements, styles and scripts; what it says and
    what its links lead to does not count."""

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()
        self.code = False  # whether the parser is inside a style, or a script that runs

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.code = tag == "style" or (tag == "script" and "json" not in values.get("type", ""))
        if tag == "link" and set(values.get("rel", "").split()) <= POINTS:
            return
        addresses = [values.get(LOADS.get(tag, ""), "").strip(), *values.get("srcset", "").replace(",", " ").split()]
        self.found |= {address for address in addresses if ELSEWHERE.match(address)}
        self.found |= set(IN_CODE.findall(values.get("style", "")))

    def handle_endtag(self, tag: str) -> None:
        self.code = False

    def handle_data(self, data: str) -> None:
        if self.code:
            self.found |= set(IN_CODE.findall(data))


def loaded_elsewhere(html: str) -> set[str]:
    """Addresses on other machines that a page of HTML loads when it is opened."""
    parser = _Loaded()
    parser.feed(html)
    parser.close()
    return parser.found


class BookError(RuntimeError):
    """The report could not be built; the message says what Sphinx or the check found, `pages` which are to be made
    again."""

    def __init__(self, message: str, pages: Iterable[str] = ()):
        super().__init__(message)
        self.pages = tuple(pages)


def build(profile: Profile) -> Path:
    """Build the report of a profile whose notebooks have been executed; return `jupyter_book/_build/html`.

    The old report is replaced only when the new one is whole. Raises StageError for executed notebooks that are
    missing, failed or incomplete, and BookError for any Sphinx warning, a figure that is not shown, or anything
    that is loaded from elsewhere.
    """
    work = store.BOOK / "_build" / "work"
    shutil.rmtree(work, ignore_errors=True)
    figures = stage(profile, work / "source")
    html = run_sphinx(work)
    drop_unused(html)
    try:
        check_html(html, figures)
    except BookError as error:
        for chapter in error.pages:
            run_again(profile, chapter)
        raise
    target = store.BOOK / "_build" / "html"
    shutil.rmtree(target, ignore_errors=True)
    os.replace(html, target)
    shutil.rmtree(work)
    return target


def run_sphinx(work: Path) -> Path:
    """Run Jupyter Book on `work/source` with warnings as errors; return the HTML folder."""
    command = [*JUPYTER_BOOK, "build", str(work / "source"), "--path-output", str(work), "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    log.debug("jupyter-book said:\n%s", said)
    if done.returncode:
        found = [line for line in said.splitlines() if re.search(r"WARNING|ERROR|Error", line)] or said.splitlines()
        short = "\n".join(line.replace(f"{work}/source/", "") for line in found[-30:])
        raise BookError(f"expected a report without warnings, got from jupyter-book:\n{short}\n"
                        "Correct the notebooks or pages named and run `make book` again")
    return work / "_build" / "html"


def drop_unused(html: Path) -> None:
    """Remove what no page of the report loads: source maps, the theme's translations into other languages, fonts that
    are there in a smaller form too or draw marks of companies, icons that no page or script names, and pictures that
    the pages have a copy of."""
    static = html / "_static"
    shutil.rmtree(static / "locales", ignore_errors=True)
    for file in (*html.rglob("*.map"), *static.rglob("*.ttf"), *static.rglob("fa-brands-*"),
                 *(static / "figures").rglob("*.png")):
        file.unlink(missing_ok=True)
    for icons in static.glob("scripts/fontawesome.js"):
        _drop_icons(icons, [file for file in (*html.glob("*.html"), *html.rglob("*.js")) if file != icons])


def _drop_icons(icons: Path, shown: Iterable[Path]) -> None:
    named = {name for file in shown
             for name in re.findall(r"\bfa-([a-z0-9-]+)", file.read_text(encoding="utf8", errors="replace"))}
    icons.write_text(ICON.sub(lambda icon: icon[0] if named & {icon[2], *re.findall(r'"([^"]+)"', icon[3])} else "",
                              icons.read_text(encoding="utf8")), encoding="utf8")


def check_html(html: Path, figures: dict[str, int]) -> None:
    """BookError unless each page shows its figures, all linked files are there, and nothing comes from elsewhere.

    `figures` is the number of interactive figures by page.
    """
    faults, lost = [], []
    for page, expected in figures.items():
        text = (html / f"{page}.html").read_text(encoding="utf8")
        if (shown := text.count(f'<figure class="{FIGURE}" ')) != expected:
            faults.append(f"{page}: expected {expected} interactive figures, got {shown}: is hrsa installed with its "
                          "entry points (`make setup`)?")
        missing = [name for name in LINKED.findall(text) if not (html / name).is_file()]
        faults += [f"{page}: expected {name}, got no such file: run `make book` again, which publishes it"
                   for name in missing]
        lost += [page] * bool(missing)
    for file in sorted(html.glob("*.html")):
        text = file.read_text(encoding="utf8")
        faults += [f"{file.name}: expected nothing loaded from elsewhere, got {found}"
                   for found in sorted(loaded_elsewhere(text))]
    if faults:
        raise BookError("the report is not whole:\n" + "\n".join(f"- {fault}" for fault in faults), lost)
