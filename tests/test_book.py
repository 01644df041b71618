import json
import re
import shutil

import jupytext
import nbformat
import pypdf
import pytest
import yaml
from browser import open_page, violations
from bs4 import BeautifulSoup
from myst_nb.core.render import load_mime_renders
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from hrsa.report import book, chapters, notebooks
from hrsa.report.book import extension, report, share, source
from hrsa.study import store
from hrsa.study.code_hash import PACKAGE
from hrsa.study.profile import Profile, load_profile

REAL_BOOK = store.BOOK
FIGURES = """
# %% [markdown]
# # Global shape
# One number per layer pair.

# %% tags=["parameters"]
profile = "nobody"

# %%
import numpy as np
import pandas as pd
from hrsa.report import plots
rng = np.random.default_rng(0)
layers = pd.DataFrame({"layer": range(5), "value": rng.random(5)})
grid = layers.merge(layers, how="cross", suffixes=("_x", "_y"))

# %%
plots.heatmap(grid, "layer_x", "layer_y", "value_x", quantity="cka", xlabel="layer of b", ylabel="layer of a").publish(
    profile, "07_cka", "grid", alt="A grid with </script> & \\"quotes\\" in its description.")

# %%
moments = pd.concat([grid.assign(step=step, value_x=grid["value_x"] * step / 9, pair="a-b") for step in (1, 4, 9)])
plots.film(moments, "layer_x", "layer_y", "value_x", over="step", facet="pair", label="training step").publish(
    profile, "07_cka", "film", alt="A film.")

# %% [markdown]
# Read along the diagonal.

# %%
states = layers.assign(state=layers["layer"].astype(str), models="backbones")
lines = plots.curves(states, "state", "value", hue="models", quantity="cka", ylabel=r"$\\rho_j$")
lines.publish(profile, "13_verdict", "overview", alt="Line.")
lines.publish(profile, "07_cka", "curve", alt="Line.")

# %% [markdown]
# The tables behind it.

# %%
rows = [plots.Block(m, s, f"{m}, state {s}", (plots.table(pd.DataFrame({"word": [f"{m} {s}"]}), "Words"),))
        for m in ("embedders", "backbones") for s in "01234"]
plots.choices(rows, "07_cka/curve")
"""
PROSE = """
# %% [markdown]
# # Prose and numbers
# Beside the null of the null stands `two runs`, the ceiling, and two runs of one recipe.
# The estimator of {cite}`kornblith2019similarity` is
#
# $$\\mathrm{CKA} = \\frac{\\|Y^\\top X\\|_F^2}{\\|X^\\top X\\|_F \\|Y^\\top Y\\|_F}$$

# %% tags=["parameters"]
profile = "nobody"

# %%
import pandas as pd
from myst_nb import glue
from hrsa.report import plots
glue("mean", 0.123456, display=False)

# %% [markdown]
# The mean is {glue:text}`mean:.2f`, an uncommonly zygomorphic number.

# %% tags=["answer"]
from IPython.display import Markdown
Markdown("- **Scores.** Nobody has measured them, within the margin.")

# %%
plots.table(pd.DataFrame({"task": ["a <b>", "c"], "score": [0.25, None]}), "Scores & more")

# %%
plots.table(pd.DataFrame({"count": range(40), "said": 'a "b"'}), "Forty rows")
"""

RUNNING = [  # texts that would set `hacked`, or leave an element of that class, if they were more than text
    "<script>window.hacked = 1</script>", '<img src="x" onerror="window.hacked = 2">',
    '<svg class="hacked" onload="window.hacked = 3"></svg>',
    '<iframe srcdoc="<script>parent.hacked = 4</script>"></iframe>',
    '</td></table></script></style><b class="hacked">5</b>', '[a](javascript:window.hacked=6) <javascript:alert(7)>',
    '```{raw} html\n<b class="hacked">8</b>\n```', '{raw}`<b class="hacked">9</b>` {math}`x`',
    r"$\class{hacked}{10}$ \(\href{javascript:window.hacked=11}{x}\)", r"$$\class{hacked}{12}$$ \[\class{hacked}{13}\]",
    '%{customdata} %{x} <a class="hacked" href="javascript:alert(14)">a</a><br><b class="hacked">15</b>',
    ':::{raw} html\n<b class="hacked">16</b>\n:::', "{{ hacked }} {% raw %} ![hacked](x.png) # hacked | `hacked`"]
HOSTILE = f"""
# %% [markdown]
# # Texts of others
# None of them is more than text.

# %% tags=["parameters"]
profile = "nobody"

# %%
import pandas as pd
from IPython.display import Markdown
from hrsa.report import plots
from hrsa.report.plots.cards import Card, Outcome
from hrsa.report.prose import answer, texts, verdict
from hrsa.study.profile import load_profile
from hrsa.verdict.evidence import Pool
bad = {RUNNING!r}
frame = pd.DataFrame({{"set": bad, "value": 0.5, "low": 0.4, "high": 0.6}})
study = load_profile({str(store.NOTEBOOKS / "profiles" / "smoke.yaml")!r})

# %%
plots.table(frame.assign(**{{bad[1]: bad}}), bad[0])

# %%
outcomes = [(Outcome(text, "holds", text),) for text in bad]
plots.cards([Card(text, text, text, found, ("a.html", text)) for text, found in zip(bad, outcomes)], {{"holds": "+"}})

# %%
plots.bars(frame, "set", "value", hue="set", quantity="score").publish(profile, "14_choosing", "bars", alt=bad[0])

# %%
plots.forest(frame, "set", "value", "low", "high", margin=0.1).publish(profile, "14_choosing", "forest", alt=bad[1])

# %%
grid = frame[["set"]].merge(frame, how="cross", suffixes=("_x", "_y"))
plots.heatmap(grid, "set_x", "set_y", "value", quantity="cka").publish(profile, "14_choosing", "grid", alt=bad[2])

# %%
plots.scatter(frame, "low", "high", hue="set").publish(profile, "14_choosing", "scatter", alt=bad[3])

# %%
def sentences(text):
    backbone = study.backbones[0].model_copy(update={{"path": text}})
    words = ["different", "equivalent"]
    families = pd.DataFrame({{"pair": "p", "family": ["all", text], "verdict": words, "tasks": 1}})
    pool = Pool(pd.DataFrame(), pd.Series(), (0,), pd.DataFrame({{"source": [text], "code": "c"}}))
    facts = {{"mined": 3, "left_out": 0, "suspect_share": 0.5, "largest_ratio": 0.5}}
    return [verdict.evidence_sources(pool, (0,)), verdict.families_agree(families),
            texts.margin_sentence({{"margin": 0.9, "tasks": {{text: facts}}}}),
            answer.not_covered(study.model_copy(update={{"backbones": (backbone,)}}), families)]

Markdown("\\n\\n".join(sentence for text in bad for sentence in sentences(text)))
"""


def small_profile():
    zoo = [{"name": "base", "source": "zoo", "arm": "base"},
           {"name": "rl.v1", "source": "zoo", "arm": "rlvr", "start": "base"}]
    pair = {"name": "base-vs-rl.v1", "a": "base", "b": "rl.v1", "kind": "RLVR"}
    return Profile(name="tiny", title=f"Two pages {RUNNING[1]}", backbones=zoo, pairs=[pair], seeds=[0])


def _record(rule, name, **more):
    return {"rule": rule, "name": name, "made": {"embedder": f"{name}-0123456789ab"}, "seconds": 12.34, "peak_mb": 512,
            "fingerprint": "f" * 12, "commit": "c" * 40, "written": "2020-01-02T03:04:05Z", "python": "3.11",
            "machine": f"a machine {RUNNING[0]}", "versions": {"torch": "2.13.0"}} | more


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A repository in small: the real book pages, and every chapter executed (three tiny notebooks under all names)."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in {"ROOT": ".", "BOOK": "jupyter_book", "RUNS": "data/runs", "FIGURES": "figures"}.items():
            patch.setattr(store, name, root / folder)
        patch.setenv("HRSA_ROOT", str(root))
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        shutil.copytree(REAL_BOOK, store.BOOK, ignore=shutil.ignore_patterns("executed", "_build"))
        profile = small_profile()
        _execute_all(root, profile)
        for rule, name in (("mine", "study"), ("03_training", "base-s0"), ("03_training", "rl.v1-s0")):
            target = store.RUNS / "tiny" / "records" / rule / f"{name}.json"
            store.write_json(target, _record(rule, name))
        yield profile


def _execute_all(root, profile):
    executed = {}
    for kind, text in (("figures", FIGURES), ("prose", PROSE), ("hostile", HOSTILE)):
        notebook = jupytext.reads(text.lstrip(), fmt="py:percent")
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        jupytext.write(notebook, root / f"{kind}.ipynb")
        executed[kind] = notebooks.run_notebook(root / f"{kind}.ipynb", root / f"{kind}.out.ipynb", {"profile": "tiny"})
    for _, members in source.chapter_pages(profile):
        for chapter, name in [(chapter, name) for chapter, names in members for name in names]:
            target = root / chapters.executed(profile, chapter, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            kind = {"07_cka": "figures", "14_choosing": "hostile"}.get(chapter, "prose")
            shutil.copyfile(executed[kind], target)


@pytest.fixture(scope="module")
def html(study):
    return book.build(study)


@pytest.mark.browser
def test_figures_are_drawn_from_file_without_a_network(html, browser):
    drawn = "document.querySelectorAll('.hrsa-plotly .main-svg').length > 1"
    typeset = "document.querySelector('.ytitle-math-group svg') !== null"
    open_page(browser, html / "07_cka.html", f"{drawn} && {typeset}")
    drawn = browser.execute_script("""return {
        cells: document.querySelectorAll('.heatmaplayer image').length,
        lines: document.querySelector('.scatterlayer path.js-line').getAttribute('d').length,
        wide: [...document.querySelectorAll('.hrsa-plotly')].map(x => x.offsetWidth),
        buttons: [...document.querySelectorAll('.modebar-btn')].map(x => x.getAttribute('data-title')),
        page: document.documentElement.scrollWidth - window.innerWidth}""")
    assert drawn["buttons"] and not [name for name in drawn["buttons"] if "hare" in name or "loud" in name], drawn
    assert drawn["cells"] == 2 and drawn["lines"] > 40 and min(drawn["wide"]) > 500 and drawn["page"] <= 0, drawn
    labels = [x.get_attribute("aria-label") for x in browser.find_elements(By.CSS_SELECTOR, "figure.hrsa-figure")]
    assert labels == ['A grid with </script> & "quotes" in its description.', "A film.", "Line."]


@pytest.mark.browser
def test_a_film_is_moved_by_the_keyboard_and_its_strip_is_for_paper(html, browser):
    open_page(browser, html / "07_cka.html", "document.querySelectorAll('.hrsa-film input').length === 1 && "
                                             "document.querySelectorAll('.hrsa-plotly .main-svg').length > 3")
    corner = "return document.querySelector('.hrsa-film + .hrsa-plotly').data[0].z[4][4]"
    slider, first = browser.find_element(By.CSS_SELECTOR, ".hrsa-film input"), browser.execute_script(corner)
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.find_element(By.CSS_SELECTOR, ".hrsa-film output").text == "training step: 9"
    assert slider.get_attribute("aria-valuetext") == "training step: 9"
    assert browser.execute_script(corner) == pytest.approx(9 * first, rel=1e-3)
    strip = browser.find_element(By.CSS_SELECTOR, "figure:has(.hrsa-film) img.hrsa-strip")
    assert not strip.is_displayed() and strip.get_attribute("src").endswith("_static/figures/tiny/07_cka/film.svg")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        WebDriverWait(browser, 10).until(lambda _: strip.is_displayed() and not slider.is_displayed())
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.browser
def test_figures_are_drawn_in_the_colours_of_the_theme_and_light_on_paper(html, browser):
    open_page(browser, html / "07_cka.html", "document.querySelectorAll('.hrsa-plotly .main-svg').length > 3")
    seen = """const of = (query, name) => getComputedStyle(document.querySelector(`.hrsa-plotly ${query}`))[name];
              return [of('.main-svg', 'backgroundColor'), of('.xtick text', 'fill')]"""
    light, dark = ["rgb(255, 255, 255)", "rgb(34, 34, 34)"], ["rgb(20, 24, 30)", "rgb(221, 221, 221)"]
    try:
        for theme, colours in (("light", light), ("dark", dark)):
            browser.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
            WebDriverWait(browser, 10).until(lambda _, c=colours: browser.execute_script(seen) == c)
        browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        WebDriverWait(browser, 10).until(lambda _: browser.execute_script(seen) == light)
        browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
        WebDriverWait(browser, 10).until(lambda _: browser.execute_script(seen) == dark)
        assert len(browser.find_elements(By.CSS_SELECTOR, ".hrsa-film")) == 1
    finally:
        browser.execute_script("document.documentElement.dataset.theme = 'light'")


@pytest.mark.browser
def test_texts_of_others_run_nothing_and_are_shown_as_they_are(html, browser):
    drawn = "document.querySelectorAll('.hrsa-plotly .main-svg').length > 7"
    for page, ready in (("run_records", "true"), ("14_choosing", drawn)):
        open_page(browser, html / f"{page}.html", ready)  # an alert would be an error here
        seen = browser.execute_script("""return {
            set: window.hacked, typeset: document.querySelectorAll('main mjx-container').length,
            made: [...document.querySelectorAll('.hacked, main iframe, img[src="x"], img[src*="x.png"], '
                + '[href^="javascript:"]')].map(x => x.outerHTML),
            run: [...document.querySelectorAll('script:not([type="application/json"])')].filter(
                x => x.textContent.includes('hacked')).length}""")
        assert seen == {"set": None, "typeset": 0, "made": [], "run": 0}, page
        shown = browser.find_element(By.TAG_NAME, "main").text
        assert RUNNING[0] in shown and RUNNING[1] in shown  # on the first page as the machine and the study's title
    texts = browser.execute_script("""
        const all = (where) => [...document.querySelectorAll(where)].map(x => x.textContent).join(' ');
        const hovered = [...document.querySelectorAll('.hrsa-plotly')].map(plot => {
            const points = plot.data.map((_, i) => [{curveNumber: i, pointNumber: 0}]);
            return (plot.data[0].z ? [{xpx: 9, ypx: 9}] : points).map(place => {
                Plotly.Fx.hover(plot, place, plot._fullLayout.xaxis._id + plot._fullLayout.yaxis._id);
                return [...plot.querySelectorAll('.hoverlayer text')].map(x => x.textContent).join(' ')}).join(' ')});
        return {table: all('.hrsa-table'), cards: all('.hrsa-cards'), sentences: all('.cell_output p, .cell_output li'),
            labels: all('.hrsa-plotly .main-svg'), hovered: hovered, set: window.hacked}""")
    assert texts.pop("set") is None and all("hacked" in text for text in texts.pop("hovered")), texts
    for place, text in texts.items():
        told = "".join(text.split())
        for bad in RUNNING:
            wanted = "".join((bad if place != "labels" else bad[:30]).split())
            assert wanted in told, (place, bad)


@pytest.mark.browser
def test_maths_numbers_and_tables_are_shown(html, browser):
    open_page(browser, html / "04_evaluation.html", "document.querySelector('mjx-container svg') !== null")
    text = browser.find_element(By.TAG_NAME, "main").text
    assert "The mean is 0.12" in text and "Kornblith" in text and "a <b>" in text and "Scores & more" in text
    shown = browser.find_element(By.CSS_SELECTOR, ".hrsa-table td:nth-child(2)")
    assert shown.text == "0.250" and shown.value_of_css_property("text-align") == "right"
    assert not browser.find_element(By.CSS_SELECTOR, "details.hide pre").is_displayed(), "code should be folded away"
    drawn = browser.execute_script("return [...document.querySelectorAll('svg[data-icon] path')].map("
                                   "x => x.closest('svg').dataset.icon)")
    assert set(drawn) >= {"magnifying-glass", "bars", "moon", "sun"}
    assert (html / "_static" / "scripts" / "fontawesome.js").stat().st_size < 200_000, "icons that no page shows"


@pytest.mark.browser
def test_a_long_table_shows_its_first_rows_and_all_on_request_and_on_paper(html, browser):
    open_page(browser, html / "04_evaluation.html", "document.querySelectorAll('.hrsa-more').length === 1")
    rows = "[...document.querySelectorAll('table:has(+ .hrsa-more) tbody tr')]"
    shown = f"return {rows}.filter(row => row.offsetParent).length"
    button = browser.find_element(By.CSS_SELECTOR, ".hrsa-more button")
    assert browser.execute_script(shown) == 12 and button.text == "Show all 40 rows"
    assert violations(browser, ".hrsa-table:has(.hrsa-more)") == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        WebDriverWait(browser, 10).until(lambda _: browser.execute_script(shown) == 40 and not button.is_displayed())
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    button.send_keys(Keys.ENTER)
    assert browser.execute_script(shown) == 40 and button.text == "Show the first rows"
    saved = browser.execute_async_script("const done = arguments[0]; fetch(document.querySelector('.hrsa-more a').href)"
                                         ".then(x => x.text()).then(done)")
    assert saved.splitlines()[:2] == ['"count","said"', '"0","a ""b"""'] and len(saved.splitlines()) == 41


def test_a_term_links_to_the_glossary_where_a_page_first_names_it(html):
    for page in (html / "04_evaluation.html", html / "03_training.html"):
        text = page.read_text(encoding="utf8")
        links = dict(re.findall(r'<a class="hrsa-term [^"]+" href="glossary.html#([^"]+)" title="([^"]+)">', text))
        assert list(links) == ["term-null", "term-ceiling", "term-two-runs-of-one-recipe", "term-margin"]
        assert links["term-ceiling"].startswith("The value for one model in float32 and in bf16, mean of")
    glossary = (html / "glossary.html").read_text(encoding="utf8")
    assert all(f'id="{anchor}"' in glossary for anchor in links) and "hrsa-term" not in glossary
    front = (html / "intro.html").read_text(encoding="utf8")
    assert front.count('href="glossary.html#term-margin"') == 1


def test_every_entry_of_the_glossary_is_used_and_no_term_is_there_twice():
    text = (REAL_BOOK / "glossary.md").read_text(encoding="utf8")
    entries = [[line for line in entry.splitlines() if line and not line.startswith(" ")]
               for block in re.findall(r"```{glossary}\n(.*?)```", text, re.S) for entry in block.split("\n\n")]
    terms = [term.lower() for entry in entries for term in entry]
    assert len(entries) > 30 and all(entries) and len(terms) == len(set(terms))
    pages = [*store.NOTEBOOKS.glob("*.py"), *(PACKAGE / "report" / "prose").glob("*.py"), REAL_BOOK / "intro.md"]
    said = " ".join(" ".join(page.read_text(encoding="utf8").replace("\n# ", " ").split()) for page in pages).lower()
    assert [entry for entry in entries if not any(
        re.search(rf"(?<![\w-]){re.escape(term.lower())}(?![\w-])", said) for term in entry)] == []


@pytest.mark.browser
def test_a_definition_shows_under_the_pointer_and_on_focus_and_escape_takes_it_away(html, browser):
    open_page(browser, html / "04_evaluation.html")
    first, second = browser.find_elements(By.CSS_SELECTOR, "a.hrsa-term")[:2]

    def shown():
        found = browser.find_elements(By.CLASS_NAME, "hrsa-definition")
        return [(note.text[:9], note.get_attribute("id"), note.get_attribute("role")) for note in found]

    assert shown() == [] and first.get_attribute("title") == ""
    ActionChains(browser).move_to_element(first).perform()
    assert shown() == [("The value", first.get_attribute("aria-describedby"), "tooltip")]
    note = browser.find_element(By.CLASS_NAME, "hrsa-definition")
    ActionChains(browser).move_to_element(note).pause(0.4).perform()
    assert len(shown()) == 1, "a definition that the pointer is on stays"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert shown() == [] and first.get_attribute("aria-describedby") is None
    browser.execute_script("arguments[0].focus()", first)
    ActionChains(browser).send_keys(Keys.TAB).pause(0.4).perform()
    assert [bool(term.get_attribute("aria-describedby")) for term in (first, second)] == [False, True]
    assert len(shown()) == 1
    at = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", note)
    assert at["left"] >= 0 and at["right"] <= browser.execute_script("return window.innerWidth")
    assert violations(browser) == []


@pytest.mark.browser
def test_a_click_on_a_state_and_the_menus_choose_what_is_shown_of_it(html, browser):
    open_page(browser, html / "07_cka.html", "document.querySelectorAll('.hrsa-plotly .main-svg').length > 1")
    menus = browser.find_elements(By.CSS_SELECTOR, ".hrsa-menus select")

    def shown():
        return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, ".hrsa-choices td") if cell.is_displayed()]

    assert shown() == ["embedders 0"] and [menu.accessible_name.strip() for menu in menus] == ["Models", "State"]
    Select(menus[1]).select_by_value("3")
    assert shown() == ["embedders 3"]
    point = browser.find_elements(By.CSS_SELECTOR, ".hrsa-plotly")[2].find_elements(By.CSS_SELECTOR, ".points path")[2]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(browser).move_to_element(point).pause(0.3).click().perform()
    assert shown() == ["backbones 2"] and [menu.get_attribute("value") for menu in menus] == ["backbones", "2"]
    assert violations(browser, ".hrsa-choices") == []  # the label of the figure above is maths with ids of its own


@pytest.mark.browser
def test_search_finds_pages_and_the_front_page_leads_to_them(html, browser):
    found = "document.querySelectorAll('#search-results li').length > 3"
    open_page(browser, (html / "search.html").as_uri() + "?q=zygomorphic", found)
    open_page(browser, html / "index.html", "true")
    open_page(browser, html / "intro.html", "document.querySelectorAll('nav .caption-text').length == 4")
    captions = [x.get_attribute("textContent") for x in browser.find_elements(By.CSS_SELECTOR, "nav .caption-text")]
    assert captions == ["The study", "Inside, level by level", "Synthesis", "Reference"]


@pytest.mark.browser
def test_a_page_alone_is_one_file_that_needs_no_other(html, browser, tmp_path):
    with pytest.raises(ValueError, match=r"expected a page of the report in .*'07_cka'.*, got 7"):
        share.write_page("7", tmp_path / "x.html", html)
    with pytest.raises(ValueError, match=r"expected a built report in .*, got none: run `make book`"):
        share.write_page("07_cka", tmp_path / "x.html", tmp_path)
    assert not list(tmp_path.iterdir())
    alone = share.write_page("07_cka", tmp_path / "a page" / "alone.html", html)
    typeset = "document.querySelector('.ytitle-math-group svg') !== null"
    open_page(browser, alone, f"document.querySelectorAll('.hrsa-plotly .main-svg').length > 3 && {typeset}")
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(x => x.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    links = browser.find_elements(By.CSS_SELECTOR, "a[download]")
    assert len(links) == 6 and all(link.get_attribute("href").startswith("data:") for link in links)


@pytest.mark.browser
def test_the_report_is_printed_with_every_run_and_its_links_lead_inside(html, tmp_path):
    few = shutil.copytree(html, tmp_path / "few")
    front = BeautifulSoup((few / "intro.html").read_text(encoding="utf8"), "html.parser")
    pages = {"intro.html", "03_training.html", "04_evaluation.html", "07_cka.html"}
    for entry in front.select(".bd-sidebar-primary li:has(> a.internal[href])"):  # each page takes seconds to print
        if entry.a["href"].split("#")[0] not in pages:
            entry.decompose()
    (few / "intro.html").write_text(str(front), encoding="utf8")
    read = pypdf.PdfReader(share.print_report(tmp_path / "report.pdf", few))
    titles = [entry.title for entry in read.outline]
    assert len(titles) == len(pages) + 1 and titles[0].startswith("Do reasoning LLMs") and "7. Global shape" in titles
    assert [title for title in titles if "Prose and numbers (rl.v1-s0)" in title]
    text = "".join(sheet.extract_text() for sheet in read.pages)
    assert "Nobody has measured them" in text and "zygomorphic" in text
    notes = [note.get_object() for sheet in read.pages for note in sheet.get("/Annots", ())]
    notes = [note["/A"] for note in notes if "/A" in note]
    assert [action for action in notes if action["/S"] == "/GoTo"]
    assert not [action for action in notes if "file:" in str(action.get("/URI", ""))]
    assert str(few).encode() not in (tmp_path / "report.pdf").read_bytes()


def test_the_html_names_its_runs_and_no_cdn(html):
    assert "<h1>7. Global shape" in (html / "07_cka.html").read_text()
    training = (html / "03_training.html").read_text()
    assert "<h1>3. Prose and numbers" in training and training.count("uncommonly zygomorphic") == 1
    assert '<option value="rl.v1-s0">rl.v1, seed 0</option>' in training
    records = (html / "run_records.html").read_text()
    assert all(text in records for text in ("base-s0-0123456789ab", "24.7", "512", "cccccccccc", "2.13.0", "Two pages"))
    assert not [p.name for p in html.glob("*.html") if "unpkg" in p.read_text() or "cdn." in p.read_text()]
    assert "nobody" not in (html / "04_evaluation.html").read_text(), "overridden parameters should be left out"
    assert not [*html.rglob("*.map"), *html.rglob("*.ttf")] and not (html / "_static" / "locales").exists()
    assert not list((html / "_static" / "figures").rglob("*.png")) and (html / "_images" / "overview.png").is_file()
    with_plotly = [p.name for p in html.glob("*.html") if "plotly.min.js" in p.read_text()]
    assert with_plotly == ["07_cka.html", "14_choosing.html"]


def test_the_front_page_gives_the_answer_of_the_verdict(html, study, tmp_path, monkeypatch):
    front = (html / "intro.html").read_text()
    assert "What this run found" in front and "Nobody has measured them" in front and source.ANSWER not in front
    assert re.search(r'<img[^>]*alt="base and rl.v1 at four levels[^>]*src="_images/overview.png"', front)
    monkeypatch.setattr(store, "FIGURES", tmp_path)
    with pytest.raises(source.StageError, match=r"13_verdict: expected one cell tagged 'answer' .* got 1 and no fig"):
        source.front_answer(study)


def test_executed_notebooks_that_are_missing_failed_unfinished_or_noisy_are_all_named(study, tmp_path):
    folder = store.ROOT / chapters.executed(study, "01_backbones", "study")
    kept = {path: path.read_bytes() for path in folder.parent.glob("*.ipynb")}

    def change(name, edit):
        path = folder.parent / name
        notebook = nbformat.read(path, 4)
        edit(notebook, next(cell for cell in notebook.cells if cell.cell_type == "code"))
        nbformat.write(notebook, path)

    try:
        (folder.parent / "02_texts.ipynb").unlink()
        change("01_backbones.ipynb", lambda notebook, cell: notebook.metadata.papermill.update(exception=True))
        change("04_evaluation.ipynb", lambda notebook, cell: cell.update(execution_count=None))
        change("10_dynamics.ipynb", lambda notebook, cell: cell.outputs.append(
            nbformat.v4.new_output("stream", name="stderr", text="UserWarning: odd")))
        change("13_verdict.ipynb", lambda notebook, cell: cell.outputs.append(
            nbformat.v4.new_output("error", ename="ValueError", evalue="no such pair", traceback=[])))
        with pytest.raises(source.StageError) as failure:
            source.stage(study, tmp_path / "source")
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    told = str(failure.value)
    for part in ("01_backbones.ipynb: expected a notebook that ran to its end",
                 "02_texts.ipynb: expected this executed notebook, got none",
                 "04_evaluation.ipynb: expected cell", "10_dynamics.ipynb: expected no warnings, got in cell",
                 "UserWarning: odd", "13_verdict.ipynb: cell", "no such pair"):
        assert part in told, told


@pytest.mark.parametrize(("damage", "said"), [
    (lambda content: content[:len(content) // 2], "expected a whole executed notebook, got JSONDecodeError"),
    (lambda content: b"", "expected a whole executed notebook"), (lambda content: b"[]", "a whole executed notebook"),
    (lambda content: b"{}", "expected a whole executed notebook, got KeyError"),
    (lambda content: b"\xff" + content, "expected a whole executed notebook, got UnicodeDecodeError"),
    (lambda content: content.replace(b"uncommonly", b"unusually"), "as it was executed, with SHA-256"),
    (lambda content: content.replace(b'"# Prose', b'"Prose'), "a first cell that begins with '# Title'"),
    (None, "expected this executed notebook, got none")])
def test_a_page_that_is_no_longer_whole_is_given_back(study, tmp_path, damage, said):
    file = store.ROOT / chapters.executed(study, "02_texts", "study")
    records = [store.ROOT / chapters.record(study, *job) for job in (("02_texts", "study"), ("04_evaluation", "study"))]
    content = file.read_bytes()
    for record in records:
        store.write_json(record, _record("02_texts", "study") | {"made": {
            "notebook": file.name, notebooks.HASH: store.file_hash(file)}})
    try:
        assert notebooks.give_back(study) == [] and all(record.is_file() for record in records)
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage(content))
        kept = records[0].read_bytes()
        [told] = notebooks.give_back(study)
        assert told.startswith("02_texts.ipynb: ") and said in told
        assert [record.is_file() for record in records] == [False, True]
        records[0].write_bytes(kept)
        with pytest.raises(source.StageError, match=re.escape(said)):
            source.stage(study, tmp_path / "source")
        assert [record.is_file() for record in records] == [False, True]
    finally:
        file.write_bytes(content)
        for record in records:
            record.unlink(missing_ok=True)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"made": 1}'])
def test_a_record_that_is_no_longer_whole_is_no_record(study, content):
    record = store.ROOT / chapters.record(study, "measure", "backbones")
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(content)
    assert len(notebooks.give_back(study)) == 1 and not record.exists()


def test_a_figure_that_is_gone_has_its_page_made_again(study, tmp_path, monkeypatch):
    page = "07_cka"
    (tmp_path / f"{page}.html").write_text('<a href="_static/figures/tiny/gone.svg">x</a>')
    record = store.ROOT / chapters.record(study, "07_cka", "base-vs-rl.v1")
    store.write_json(record, _record("07_cka", "base-vs-rl.v1"))
    monkeypatch.setattr(report, "stage", lambda profile, folder: {page: 0})
    monkeypatch.setattr(report, "run_sphinx", lambda work: tmp_path)
    with pytest.raises(report.BookError, match="got no such file: run `make book` again"):
        report.build(study)
    assert not record.exists()


def test_the_front_page_links_only_to_chapters_of_the_profile(tmp_path):
    (tmp_path / "13_verdict.ipynb").write_text("{}")
    text = "See [the\nbackbones](01_backbones.ipynb), [the verdict](13_verdict.ipynb) and [records](run_records.md)."
    said = source.link_only_to(tmp_path, text)
    assert said == "See the\nbackbones, [the verdict](13_verdict.ipynb) and [records](run_records.md)."


@pytest.fixture
def one_page(study, tmp_path):
    """The book's source cut down to its front page and one chapter, to build quickly what must fail."""
    folder = tmp_path / "source"
    figures = source.stage(study, folder)
    toc = {"format": "jb-book", "root": "front", "chapters": [{"file": "07_cka.ipynb"}]}
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc))
    (folder / "front.md").write_text("# Front\n")
    page = "07_cka"
    return tmp_path, {page: figures[page]}


def test_a_figure_that_the_book_drops_is_seen(one_page):
    work, figures = one_page
    config = work / "source" / "_config.yml"
    asked = yaml.safe_load(config.read_text())
    asked["sphinx"]["config"]["nb_mime_priority_overrides"] = [["html", "application/vnd.plotly.v1+json", None]]
    config.write_text(yaml.safe_dump(asked))
    html = report.run_sphinx(work)
    with pytest.raises(report.BookError, match=r"07_cka.*expected 3 interactive figures, got 0"):
        report.check_html(html, figures)


def test_a_broken_reference_fails_and_an_address_elsewhere_is_seen(one_page):
    work, _ = one_page
    (work / "source" / "front.md").write_text("# Front\n\n{numref}`nowhere`\n")
    with pytest.raises(report.BookError, match=r"front\.md.*nowhere"):
        report.run_sphinx(work)
    page = work / "page.html"
    page.write_text('<a href="https://doi.org/1">fine</a><img src="_static/figures/tiny/none.png">')
    with pytest.raises(report.BookError, match=r"expected _static/figures/tiny/none.png"):
        report.check_html(work, {"page": 0})
    page.write_text('<script async src="//example.org/x.js"></script>')
    with pytest.raises(report.BookError, match=r"loaded from elsewhere, got //example.org/x.js"):
        report.check_html(work, {})


@pytest.mark.parametrize("html", [
    '<img src="https://cdn.example.org/a.png">', "<IMG SRC='//example.org/a.png'>", '<img srcset="//example.org/a 2x">',
    '<link rel="stylesheet" href="https://fonts.example.org/a.css">', '<iframe src=http://example.org></iframe>',
    "<style>@import 'https://example.org/a.css';</style>", '<p style="background:url(https://example.org/a.png)">',
    "<style>p {background: url(//example.org/a)}</style>", '<script>fetch("https://example.org/a")</script>',
    '<script type="module">import("https://example.org/a.js")</script>', '<object data="//example.org/a"></object>',
])
def test_what_a_page_loads_from_elsewhere_is_seen(html):
    assert len(report.loaded_elsewhere(f"<html><body>{html}</body></html>")) == 1


@pytest.mark.parametrize("html", [
    "<p>get it from https://cdn.jsdelivr.net/npm/a.js or //unpkg.com/b</p>", '<a href="https://example.org">a</a>',
    '<script type="application/json">{"text": "\\u003cimg src=https://example.org>"}</script>',
    "<p>&lt;script src=&quot;https://unpkg.com/a.js&quot;&gt;</p>", '<img src="_static/a.png" alt="//example.org">',
    '<link rel="canonical" href="https://example.org/">', "<code>fetch('https://example.org')</code>",
])
def test_what_a_page_says_of_an_address_is_no_fault(html):
    assert report.loaded_elsewhere(f"<html><body>{html}</body></html>") == set()


def test_the_renderer_is_registered_and_gives_the_same_bytes():
    assert extension.PlotlyRenderer in load_mime_renders()
    layout = {"height": 321, "meta": {"alt": '"', "files": "p/c/n"}}
    figure = {"data": [{"text": "</script><b><!--<script>"}], "layout": layout}
    first, second = (extension.figure_html(json.loads(json.dumps(figure))) for _ in range(2))
    assert first == second and first.count("</script>") == 1 and "<b>" not in first and "<!--" not in first
    assert "min-height:321px" in first
    assert 'aria-label="&quot;"' in first and "_static/figures/p/c/n.svg" in first
    assert "hrsa-files" not in extension.figure_html({"data": [], "layout": {}})


@pytest.mark.parametrize("name", ["smoke", "mini", "paper"])
def test_the_table_of_contents_follows_the_profile(name):
    profile = load_profile(name)
    toc = book.table_of_contents(profile)
    captions = [part["caption"] for part in toc["parts"]]
    assert captions == ["The study", "Inside, level by level", "Synthesis", "Reference"]
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    expected = {chapters.book_page(c) for c in chapters.jobs(profile) if c[0].isdigit()}
    assert set(files) - set(source.REFERENCE) == expected and len(files) == len(set(files))
    own = name == "smoke"  # alone an ablation of both arms of a pair is shown, beside committed ones
    assert ("11_ablations.ipynb" in files) == (own or chapters.ABLATIONS.is_file())
    assert files.index("02_texts.ipynb") < files.index("03_training.ipynb") < files.index("04_evaluation.ipynb")


def test_a_profile_without_records_has_no_page(study):
    with pytest.raises(ValueError, match=r"expected run records in .*other/records, got none"):
        book.records_page(study.model_copy(update={"name": "other"}))
