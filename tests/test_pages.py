"""The report of the smoke study in a browser: figures, tables that fit, pages for those who do not see them."""

import re

import pytest
from browser import open_page, violations, violations_by_sample
from smoke import SMOKE

from hrsa.report import chapters
from hrsa.report.book.source import REFERENCE

pytestmark = [pytest.mark.pipeline, pytest.mark.browser]
WHOLE = ("intro", "13_verdict", "14_choosing")


def test_the_report_reads_in_a_browser_without_a_network(report, browser):
    open_page(browser, report / "index.html")
    for page in [report / f"{chapter}.html" for chapter in chapters.PAIR_CHAPTERS]:
        pairs = re.findall('<option value="([^"]+)"', page.read_text(encoding="utf8"))
        assert pairs == [pair.name for pair in SMOKE.compared()]
        shown = "[...document.querySelectorAll('.hrsa-plotly')].filter(x => x.offsetParent)"
        drawn = f"{shown}.length > 0 && {shown}.every(x => x.querySelector('.plot-container'))"
        seen = set()
        for pair in pairs:
            open_page(browser, f"{page.as_uri()}?#pair={pair}", ready=drawn)
            seen.add(browser.execute_script(f"return {shown}.map(x => x.dataset.figure).join()"))
        assert len(seen) == len(pairs), "each pair shows figures of its own"


@pytest.fixture(scope="module")
def wide_screen(browser):
    """The browser as wide as a laptop, 1,440 pixels."""
    size = browser.get_window_size()
    browser.set_window_size(1440, 1000)
    yield browser
    browser.set_window_size(size["width"], size["height"])


def show(browser, theme):
    browser.execute_script("for (const name of ['theme', 'mode']) document.documentElement.dataset[name] = "
                           "arguments[0];", theme)


@pytest.fixture(scope="module")
def pages(report, wide_screen):
    """What is seen of each page: tables wider than it, and what axe finds in the light and in the dark, as (page,
    caption) and {(page, theme, rule): HTML}. Each text of a few pages is asked for its contrast, elsewhere a sample."""
    wide, found = [], {}
    for page in [*sorted(report.glob("[0-9]*.html")), *(report / f"{name}.html" for name in ("intro", *REFERENCE))]:
        open_page(wide_screen, page)
        wide += [(page.stem, caption) for caption in wide_screen.execute_script(
            "return [...document.querySelectorAll('.hrsa-table')].filter(x => x.scrollWidth > x.clientWidth + 1).map("
            "x => x.querySelector('caption').textContent)")]
        wide_screen.execute_script("const still = document.createElement('style'); still.textContent = "
                                   "'* { transition: none !important }'; document.head.append(still);")
        for theme in ("light", "dark"):
            show(wide_screen, theme)
            look = violations if page.stem in WHOLE else violations_by_sample
            found |= {(page.stem, theme, rule): part for rule, part in look(wide_screen)}
    return wide, found


def test_tables_fit_a_page_of_a_laptop(pages):
    assert pages[0] == []


def test_every_page_is_open_to_those_who_do_not_see_it_or_use_no_mouse(pages):
    assert pages[1] == {}


def test_a_text_that_is_hard_to_read_is_seen_in_either_look(report, wide_screen):
    open_page(wide_screen, report / "14_choosing.html")
    wide_screen.execute_script("const cell = [...document.querySelectorAll('td')].filter(x => x.checkVisibility())[7];"
                               "cell.style.color = '#888'; cell.textContent = 'faint';")
    for theme, background in (("light", "white"), ("dark", "#222")):
        show(wide_screen, theme)
        wide_screen.execute_script("for (const x of document.querySelectorAll('td')) x.style.background = arguments[0]",
                                   background)
        for found in (violations_by_sample(wide_screen), violations(wide_screen)):
            assert [rule for rule, part in found if "faint" in part] == ["color-contrast"], theme
