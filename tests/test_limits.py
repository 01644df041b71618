"""The table of limits in docs: of the runs that the benchmark makes; those of its stages that need no model run."""

import pytest

from hrsa.study import store

SMALL = {
    "comparison": {"layers": 2, "tokens": 60, "width": 8},
    "intervals": {"layers": 1, "tokens": 90, "width": 8, "resamples": 3},
    "negatives": {"passages": 400, "queries": 5, "width": 8},
    "verdict": {"seeds": 2, "tasks": 2, "queries": 8}}


@pytest.fixture
def limits(monkeypatch):
    monkeypatch.syspath_prepend(str(store.ROOT / "benchmarks"))
    import limits

    return limits


def test_the_page_has_the_runs_of_the_benchmark(limits):
    page = (store.ROOT / "docs" / "limits.md").read_text(encoding="utf8")
    rows = [line for line in page.split(limits.HEAD)[1].splitlines()[2:] if line.startswith("|")]
    found = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]
    again = "run `python benchmarks/limits.py --write docs/limits.md`"
    assert [row[:2] for row in found] == [(stage, limits.told(size)) for stage, size in limits.RUNS], again
    assert page == limits.page(rows), again
    held = {row[:2]: (float(row[3].replace(",", "")), float(row[4].replace(",", ""))) for row in found
            if row[0] in ("comparison", "intervals")}
    assert held and all(peak <= stated for peak, stated in held.values()), held  # what is set is kept


@pytest.mark.parametrize("stage", SMALL)
def test_stages_of_the_table_run(limits, stage, tmp_path):
    run, stated = limits.STAGES[stage](tmp_path, **SMALL[stage])
    run()
    assert (stated is not None) == (stage in ("comparison", "intervals"))
