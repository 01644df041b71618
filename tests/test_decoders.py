"""The table of decoders in docs: whole for the transformers that is installed, and what the code does now."""

import multiprocessing

import pytest

from hrsa.study import store

DRAWN = 8


@pytest.fixture
def decoders(monkeypatch):
    monkeypatch.syspath_prepend(str(store.ROOT / "benchmarks"))
    import decoders

    return decoders


@pytest.fixture
def rows(decoders):
    return decoders.read_page((store.ROOT / "docs" / "decoders.md").read_text(encoding="utf8"))


def test_every_architecture_of_transformers_is_in_the_table(decoders, rows):
    lacking = [name for name in (*decoders.causal_types(), *decoders.TEXT_PARTS) if name not in rows]
    gone = [name for name in rows if name not in (*decoders.causal_types(), *decoders.TEXT_PARTS)]
    again = "run `python benchmarks/decoders.py --write docs/decoders.md`"
    assert (lacking, gone) == ([], []), f"docs/decoders.md lacks or keeps these: {again}"
    page = (store.ROOT / "docs" / "decoders.md").read_text(encoding="utf8")
    assert page == decoders.page(list(rows.values())), again


def test_drawn_architectures_are_what_their_rows_say(decoders, rows, rng, tmp_path):
    drawn = rng.choice(sorted(rows), DRAWN, replace=False).tolist()
    assert multiprocessing.get_all_start_methods()[0] == "fork", "each architecture needs a process of its own"
    found = {name: decoders.row(name, decoders.judged(name, tmp_path)) for name in drawn}
    assert found == {name: rows[name] for name in drawn}


def test_a_refusal_is_told_in_few_words(decoders):
    message = ("expected in it exactly the weights of the X that its config.json describes, all finite, got 1 missing "
               "(norm.weight); 1 unexpected (a): give the config.json")
    assert decoders.brief(message) == "transformers loads it with weights 1 missing (norm.weight)"
    refused = "expected bidirectional attention: the first state"
    found = {"built": "yes", "bidirectional sdpa": refused, "bidirectional eager": "works",
             "causal sdpa": f"expected an architecture {decoders.NO_SDPA}", "causal eager": "works"}
    assert decoders.row("llama", found) == ["llama", "LlamaForCausalLM", "with kernel: eager", "works (eager)",
                                            "looks back only, whatever is asked"]
