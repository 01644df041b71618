"""Headless Chromium for the tests of the report: pages are opened from file://, and must need nothing else."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import axe_core_python
import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait


@contextlib.contextmanager
def chromium():
    """A Chromium with an empty profile; the test fails when there is none."""
    binaries = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(binaries.values()):
        pytest.fail(f"expected chromium and chromedriver, got {binaries}: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binaries["chromium"]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory() as folder:
        for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                     "disable-background-networking", "disable-component-update", f"user-data-dir={folder}"):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(binaries["chromedriver"]))
        driver.set_window_size(1400, 1000)
        driver.get("about:blank")  # else the page of a new tab loads its own parts while the first page is read
        yield driver
        driver.quit()


def open_page(browser, file, ready="document.readyState === 'complete'"):
    """Open a page, wait until a script says it is ready, and see that nothing failed and nothing was fetched.

    With HRSA_SCREENSHOTS set to a folder, a picture of the page is saved there.
    """
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(file if "?" in str(file) else file.as_uri())
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(f"return {ready}"))
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
    assert said == []
    if shots := os.environ.get("HRSA_SCREENSHOTS"):
        browser.save_screenshot(str(Path(shots) / f"{re.sub('[^a-z0-9_-]+', '-', str(file)[-40:])}.png"))


def violations(browser, part=":root"):
    """What axe finds at fault on a part of the page as it is shown: (rule, HTML of its first element)."""
    return _axe(browser, "axe.run(given, {resultTypes: ['violations']}).then(x => x.violations)", part)


def violations_by_sample(browser):
    """As `violations` of a whole page, in less than half the time.

    Of texts that are alike in colour, size, weight and all that lies under them by their elements, one is asked for its
    contrast. When the page was looked at in other colours before, rules on anything but colours are asked of what is
    shown only now.
    """
    return _axe(browser, """(async () => {
        const shown = [...document.querySelectorAll(given)].filter(x => x.checkVisibility());
        const before = window.lookedAt, alike = new Map(), under = new Map([[null, '']]);
        window.lookedAt = new Set([...(before || []), ...shown]);
        const below = x => {
            if (!under.has(x)) {
                const s = getComputedStyle(x), own = [s.backgroundColor, s.backgroundImage, s.opacity, s.filter];
                under.set(x, [...own, below(x.parentElement)].join());
            }
            return under.get(x);
        };
        for (const x of shown) {
            if ([...x.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) {
                const s = getComputedStyle(x);
                const key = [s.color, s.fontSize, s.fontWeight, s.textShadow, below(x)].join();
                if (!alike.has(key)) alike.set(key, x);
            }
        }
        const look = async (part, rules) => (await axe.run(part, {resultTypes: ['violations'], ...rules})).violations;
        const fresh = shown.filter(x => before && !before.has(x));
        const found = await look({include: [...alike.values()]}, {runOnly: ['color-contrast']});
        if (before) found.push(...await look(document, {runOnly: ['link-in-text-block']}));
        if (!before || fresh.length) {
            const all = {rules: {'color-contrast': {enabled: false}}};
            found.push(...await look(before ? {include: fresh} : document, all));
        }
        return found;
    })()""", "body *")


def _axe(browser, run, given):
    browser.set_script_timeout(60)
    if not browser.execute_script("return Boolean(window.axe)"):
        browser.execute_script(Path(axe_core_python.__file__).with_name("axe.min.js").read_text(encoding="utf8"))
    said = browser.execute_async_script("const [given, done] = arguments; "
                                        f"{run}.then(done)", given)
    return [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in said]
