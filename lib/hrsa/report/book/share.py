"""The built report to hand on: a chapter as one file that needs no other, and all of it as a PDF.

    hrsa share 13_verdict          13_verdict.html
    hrsa share                     report.pdf, printed by Chromium
"""

from __future__ import annotations

import base64
import mimetypes
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote, unquote

from bs4 import BeautifulSoup, Tag

from hrsa.study import store

HTML = store.BOOK / "_build" / "html"
MOVES_ON = ".bd-sidebar-primary, .bd-header-article, .prev-next-footer, .search-button-field, #pst-search-dialog, " \
           "link[rel=next], link[rel=prev], link[rel=search], link[rel=index], link[rel=preload], link[rel=prefetch]"
_URL = re.compile(r"url\(\s*([\"']?)(?!data:|#)([^\"')]+)\1\s*\)")
_IMPORT = re.compile(r"@import\s+(?:url\()?\s*[\"']([^\"':]+)[\"']\s*\)?\s*;")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FRONT = "intro"
_SECONDS = 120  # for a page to be printed


def write_page(page: str, target: Path, html: Path = HTML) -> Path:
    """Write a page of a built report as one HTML file with all that it loads inside; returns the file.

    Links to other pages become plain words. ValueError where the report or the page is not there.
    """
    soup = _page(page, html)
    for element in soup.select(MOVES_ON):
        element.decompose()
    for link in soup.select("link[rel~=stylesheet]"):
        style = soup.new_tag("style")
        style.string = _style(_local(html, link["href"]))
        link.replace_with(style)
    for script in soup.select("script[src]"):
        _put_inside(script, html, soup)
    for element, attribute in (("img", "src"), ("link", "href")):
        for loaded in soup.select(f"{element}[{attribute}]"):
            if file := _file(html, loaded[attribute]):
                loaded[attribute] = _data(file)
    for link in soup.select("a[href]"):
        _bring_or_unlink(link, html)
    with store.atomic(target) as temporary:
        temporary.write_text(str(soup), encoding="utf8")
    return target


def print_report(target: Path, html: Path = HTML) -> Path:
    """Print all pages of a built report, in the order of its table of contents, into one PDF; returns the file.

    A page that shows one of several pairs or runs is printed once for each. Links between pages lead there in the PDF.
    ValueError where the report is not there; RuntimeError without a Chromium, or where it could not print.
    """
    from pypdf import PdfWriter

    front = _page(_FRONT, html)
    shown = dict.fromkeys(link["href"].split("#")[0] for link in front.select(".bd-sidebar-primary a.internal[href]"))
    pages = list(dict.fromkeys([f"{_FRONT}.html", *(name for name in shown if name.endswith(".html"))]))
    first: dict[str, int] = {}  # page of the report -> its first sheet
    writer = PdfWriter()
    with tempfile.TemporaryDirectory() as folder:
        for name in pages:
            soup = _page(name.removesuffix(".html"), html)
            for number, choice in enumerate(_choices(soup)):
                printed = _print(f"{(html / name).as_uri()}{choice}", Path(folder) / f"{number}.pdf")
                first.setdefault(name, len(writer.pages))
                of = unquote(choice).partition("=")[2]
                writer.append(printed, outline_item=_title(soup) + (f" ({of})" if of else ""), import_outline=False)
    _lead_inside(writer, first, html)
    writer.add_metadata({"/Title": _title(front), "/Producer": "", "/Creator": ""})
    with store.atomic(target) as temporary:
        writer.write(temporary)
    return target


def _page(name: str, html: Path) -> BeautifulSoup:
    file = html / f"{name.removesuffix('.html')}.html"
    if not file.is_file():
        there = sorted(page.stem for page in html.glob("*.html"))
        raise ValueError(f"expected a page of the report in {html}, one of {there}, got {name}" if there else
                         f"expected a built report in {html}, got none: run `make book`")
    return BeautifulSoup(file.read_text(encoding="utf8"), "html.parser")


def _title(soup: BeautifulSoup) -> str:
    heading = soup.select_one("main h1") or soup.title
    return heading.get_text().rstrip("#").strip()


def _choices(soup: BeautifulSoup) -> list[str]:
    """The fragments that show each pair or run of a page; one that is empty where there is nothing to choose."""
    menu = soup.select_one(".hrsa-switch select")
    key = soup.select_one(".hrsa-switch")["data-key"] if menu else ""
    return [f"#{key}={quote(option['value'])}" for option in menu.select("option")] if menu else [""]


def _print(address: str, target: Path) -> Path:
    """Print one page with a browser that has no profile."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise RuntimeError(f"expected a browser that prints, one of {', '.join(_BROWSERS)}, got none on the PATH: "
                           "install Chromium (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer",
                   f"--user-data-dir={profile}", "--virtual-time-budget=30000", f"--print-to-pdf={target}", address]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"expected {address} to be printed within {_SECONDS} s, got nothing from {browser}: "
                               "give the same command again when the machine has less to do") from None
    if done.returncode or not target.is_file():
        raise RuntimeError(f"expected {address} to be printed, got from {browser}:\n{done.stderr[-1000:]}")
    return target


def _lead_inside(writer, first: dict[str, int], html: Path) -> None:
    """Links to pages of the report lead to their first sheets; what names other files of this machine is taken out."""
    from pypdf.generic import ArrayObject, DictionaryObject, NameObject

    folder = f"{html.as_uri()}/"
    for sheet in writer.pages:
        kept = ArrayObject()
        for note in sheet.get("/Annots", ()):
            action = note.get_object().get("/A", {})
            address = str(action.get("/URI", ""))
            page = address.removeprefix(folder).split("#")[0] if address.startswith(folder) else ""
            if page in first:
                where = ArrayObject([writer.pages[first[page]].indirect_reference, NameObject("/Fit")])
                note.get_object()[NameObject("/A")] = DictionaryObject(
                    {NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): where})
            if page in first or not address.startswith("file:"):
                kept.append(note)
        sheet[NameObject("/Annots")] = kept


def _file(html: Path, address: str) -> Path | None:
    """The file of the report that an address names."""
    name = unquote(address.split("#")[0].split("?")[0])
    file = (html / name).resolve()
    return file if name and ":" not in name and file.is_file() and file.is_relative_to(html.resolve()) else None


def _local(html: Path, address: str) -> Path:
    if (file := _file(html, address)) is None:
        raise ValueError(f"expected {address} in {html}, got no such file: run `make book` again")
    return file


def _data(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _style(file: Path) -> str:
    """A style sheet with the sheets, fonts and pictures that it loads inside; empty where there is none."""
    if not file.is_file():
        return ""

    def inside(match: re.Match) -> str:
        loaded = file.parent / match[2].split("#")[0].split("?")[0]
        return f"url({_data(loaded)})" if loaded.is_file() else "url(data:,)"

    text = _URL.sub(inside, file.read_text(encoding="utf8"))
    return _IMPORT.sub(lambda match: _style(file.parent / match[1]), text)


def _put_inside(script: Tag, html: Path, soup: BeautifulSoup) -> None:
    """A script's text in its place; of one that waits for the page, at the end of it."""
    text = _local(html, script["src"]).read_text(encoding="utf8").replace("</script", "<\\/script")
    inside = soup.new_tag("script")
    inside.string = text
    if script.has_attr("defer") or script.has_attr("async"):
        script.decompose()
        soup.body.append(inside)
    else:
        script.replace_with(inside)


def _bring_or_unlink(link: Tag, html: Path) -> None:
    file = _file(html, link["href"])
    if file is None:
        return
    if file.suffix == ".html":
        link.name = "span"
        link.attrs = {"class": link.get("class", [])}
    else:
        link["download"] = file.name
        link["href"] = _data(file)
