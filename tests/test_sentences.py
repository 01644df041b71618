"""Every sentence made by code, called with the extremes that it must survive: 0, 1, all, none, equal, NaN."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import test_answer
from test_ablations import spread, table_of
from test_pairs import film, over_steps, row
from test_results import FOUND, PROFILE, similarities
from test_yardsticks import parts_of
from test_zoo import card_of

from hrsa.analysis.ablations import REALIGNED_METRICS, REALIGNMENT
from hrsa.evaluation.foretelling import PREDICTORS
from hrsa.models.as_it_came import Manner
from hrsa.report import prose
from hrsa.report.prose import backbones, pages, robustness, scores, texts, training, yardsticks
from hrsa.report.results import read_committed
from hrsa.similarity.metrics import METRIC_FAMILIES, METRICS
from hrsa.study import store
from hrsa.study.profile import load_profile
from hrsa.verdict.claims import OUTCOMES, movements
from hrsa.verdict.controls import AS_EXPECTED, CONTRARY, NOT_SHOWN
from hrsa.verdict.equivalence import WORDS
from hrsa.verdict.published import reanalyse

ELSEWHERE = {"run_records.records_page": "tests/test_foreign.py::test_the_settings_of_a_profile_cannot_end_their_block"}
CLAUSES = {"similarity.value_said", "similarity.against_null", "similarity.against_runs", "similarity.against_ceiling",
           "similarity.closer_after_training", "yardsticks.similarity_name", "run_records.brief", "scores.counted"}
MODULES = [importlib.import_module(f"{prose.__name__}.{found.name}") for found in pkgutil.iter_modules(prose.__path__)]
FUNCTIONS = {f"{module.__name__.rpartition('.')[2]}.{name}": function for module in MODULES
             for name, function in inspect.getmembers(module, inspect.isfunction)
             if function.__module__ == module.__name__ and not name.startswith("_")
             and function.__annotations__.get("return") == "str"}
SMOKE, MINI, SMOLLM2 = map(load_profile, ("smoke", "mini", "smollm2"))
NAN, NONE = np.nan, (np.nan,) * 3
ZERO, ONE, SOME = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.4, 0.6)
GIVEN: dict[str, dict[str, list[tuple]]] = {}
SPANS = (ZERO, ONE, SOME, (-0.5, -0.6, -0.4), (0.0, -0.1, 0.1), (0.9, 0.8, 1.0))


def small(**recipe):
    return SMOKE.model_copy(update={"recipe": SMOKE.recipe.model_copy(update=recipe)})


def every(*given):
    """Every combination of the values given for each argument, which a function of this file may stand before."""
    return list(product(*given))


def table(columns, *rows, **same):
    return pd.DataFrame(rows, columns=columns.split()).assign(**same)


def judged(word="equivalent", pairs=("a-vs-b",), families=("all", "retrieval"), span=ZERO, **given):
    """Rows of `score_verdicts`."""
    facts = {"verdict": word, "alone": word, "reason": "", "smallest_margin": 0.01, "margin": 0.01, "seeds": 1, "tasks":
             1, "over": 1, "competent": 1, "kind": "RLVR", **given}
    return table("pair family difference low high", *((*at, *span) for at in product(pairs, families)), **facts)


def gate(*rows):
    """Rows of `competence_by_task` of two arms: (task, beats chance, beats its backbone, saturated)."""
    return table("task beats_chance beats_untrained saturated arm counts both", *(
        (*given, arm, *2 * [given[1] is not False and given[2] and not given[3]]) for given in rows for arm in "ab"),
        pair="p")


def controls(*outcomes, expects="different", reason=""):
    """Rows of `control_verdicts`."""
    return table("control outcome", *((f"c{i}", outcome) for i, outcome in enumerate(outcomes)), expects=expects,
                 compared="a and b", verdict="different", difference=0.0, low=0.0, high=0.0, reason=reason)


def along(*updates, span=(0.9, 0.8, 1.0), rounded=ONE, weights=0.0):
    """The table of `hrsa backbones --along`: an arm trained again, those shipped, one scaled, the base in bf16."""
    made = [("rlvr", backbones.AGAIN, n, "", span) for n in updates]
    made += [(arm, backbones.AS_SHIPPED, updates[-1], "", span) for arm in ("rlvr", "rlvr-b", "long", "sft")]
    made += [("sft", backbones.SCALED, 1, "rlvr", span), ("lm", backbones.ROUNDED, 0, "", rounded)]
    rows = [(*point, metric, layer, *bounds, 10.0 if metric == "knn" else NAN) for *point, bounds in made
            for metric in ("correlation", "inverse_row_entropy", "debiased_cka", "knn", backbones.READOUT)
            for layer in ("0", "1", "1+norm")]
    return table("arm made updates target metric layer value low high k", *rows, null=0.1, weights=weights, kl=0.0,
                 accuracy=0.0)


def fronted(sets, prompts, left_out, analysis):
    profile = MINI.model_copy(update={"chapters": ("07_cka",), "analysis": MINI.analysis.model_copy(update=analysis)})
    manner = Manner("embedder", "causal", None, prompts)
    models = [{"layers": 1, "width": 1, "vocabulary": 1, "manner": manner}] * len(profile.backbones)
    return pages.front_page(profile, models, sets, left_out)


def varied(*spans, null=0.1, embedders=True, by="twin"):
    """A twin or audit table: "as recorded" first, one row per variant and kind of models."""
    rows = [(metric, f"variant {i}" if i else "as recorded", models, *span) for metric in ("cka", "knn")
            for i, span in enumerate(spans) for models in ("backbones", "embedders")[:1 + embedders]]
    return table(f"metric {by} models value low high", *rows, null=null, n=1, strength=1.0)


def variants(by):
    return [varied(*spans, **more, by=by) for more in ({}, {"embedders": False}, {"null": NAN}) for spans in (
        (SOME, SOME), (SOME, ZERO), (SOME, (0.1,) * 3, (0, -1, 0)), (ONE,) * 3, ((0.5, NAN, NAN), SOME))]


def scored(tasks, value=0.5, bm25=None):
    """Scores of all models of the smoke profile on some tasks, and of BM25 where it is given a level."""
    known = [(model.id, value) for model in SMOKE.models()] + [("bm25", bm25)] * (bm25 is not None)
    return table("model value task", *((*given, task) for given in known for task in tasks), family="retrieval")


def gained(*spans, families=("all tasks", "retrieval"), like=0.0):
    """Rows of `training_gains`: an arm for each span."""
    return table("arm family gain low high", *((f"arm{i}", family, *span) for i, span in enumerate(spans)
                                               for family in families), untrained=0.0, trained=1.0, like_low=like)


def signs(change, seeds=1):
    full, causal, late = ({"setting": "lora", "value": "none"}, {"setting": "attention", "value": "causal"},
                          {"pair": "", "unlike": "steps", **spread("", change)})
    return table_of({name: {**given, **spread("change", change), "seeds": seeds} for name, given in (
        ("full", full), ("causal", causal), ("late", late))})


def moved(**values):
    return table_of({name: {key: bound for metric in REALIGNED_METRICS for key, bound in spread(
        f"{metric}_{REALIGNMENT}", value).items()} for name, value in values.items()})


def foretold(gain, queries):
    return table("predictors share low high", *((name, *ZERO) for name in PREDICTORS), ("gain", *gain), pair="a-vs-b",
                 of="x", queries=queries)


def kept(texts_kept, models, used):
    with mock.patch("hrsa.evaluation.embedding_cache.cache_size", lambda _: (texts_kept, used)), \
            mock.patch.object(scores, "embedding_folder"):
        return scores.kept_sentence(SMOKE, ["m"] * models)


def overlapping(queries, passages):
    with mock.patch.object(texts.decontamination, "reserved", lambda: {1, 2}), mock.patch.object(
            texts.decontamination, "contaminated", lambda side, known: [text == "hit" for text in side]):
        return texts.overlap_sentence(pd.DataFrame({"query": queries, "positive": passages}))


def made_set(triples=1, configs=("a",), left_out=0):
    return {"name": "x", "commit": "0" * 40, "rows": 1, "pairs": 1, "triples": 1, "written": "2026-01-01", "mining": {
        "margin": 0.95, "embedder": "bm25"}, "mined": {"left_out": left_out, "largest_ratio": 0.0}, "entry": {
        "hub": "a/b", "configs": configs, "published": triples, "instruction": "Find it.", "title": "X"}}


def trained(seeds, *weights):
    records = {seed: {f"{arm}-s{seed}": {"start": {"weights": start}} for arm, start in zip(
        ("base", "rlvr"), weights, strict=True)} for seed in seeds}
    with mock.patch.object(training, "_fingerprints_by_seed", lambda _: records), mock.patch.object(
            training, "same_recipe", lambda _: ["data", "seed"]):
        return training.arms_sentence(SMOKE)


def layered(part, metrics):
    with mock.patch.object(yardsticks.store, "read_table", lambda _: part), mock.patch(
            "pathlib.Path.is_file", lambda _: part is not None):
        return yardsticks.layers_said(store.ROOT, metrics)


VERDICTS = [judged(word, span=span) for word in WORDS for span in SPANS[:4]] + [
    judged("inconclusive", over=0, tasks=4, competent=0), judged("negligible", over=1, tasks=4, alone="different"),
    judged("uninformative", ("a-vs-b", "a-vs-c"), reason="both arms are competent on 0 of 1 tasks", competent=None),
    judged("equivalent", families=("all",))]
CONTROLS = [controls(*given, expects=expects) for expects in ("different", "same") for given in (
    (), (AS_EXPECTED,), (NOT_SHOWN,), (CONTRARY,), (AS_EXPECTED,) * 2, (AS_EXPECTED, CONTRARY, NOT_SHOWN))]
plan = partial(table, "seeds queries power provable hours enough", pair="a-vs-b")
PLANS = [plan((2, 50, 0.0, 0.1, NAN, False)), plan((2, 50, 1.0, 0.001, 0.0, True)), plan((2, 50, 0.8, 0.01, 1.0, True)),
         plan((2, 50, 0.1, 0.1, 0.01, False), (8, 50, 0.9, 0.01, 1 / 60, True), (8, 90, 1.0, 0.0, NAN, True))]
STATED = {"hash": "abc", "margin": 0.01, "alpha": 0.05, "seeds": [0], "family": ["a-vs-b"]}
RECORD = {"machine": "one machine", "written": "2026-01-01", "command": "make", "commit": "0" * 40, "hours": 0.0,
          "code": "now", "seconds": 0.0, "settings": {"repeats": 2000},
          "profile": {"name": "own", "seeds": [0], "backbones": [{"name": "base", "arm": "base"}]}}
SIMULATED, _ = read_committed("verdict_simulation")
GATED = SIMULATED["uninformative"]
POOLS = [SimpleNamespace(seeds=seeds, sources=pd.DataFrame({"source": list("xyz")[:len(codes)], "code": list(codes)}))
         for seeds, codes in (((0,), "a"), ((0, 1, 2), "a"), ((1,), "aa"), ((0, 1), "ab"))]
GIVEN["verdict"] = {
    "statement_sentence": every([[STATED], [STATED, {**STATED, "seeds": [0, 1], "family": ["p", "q"]}]], [True, False],
                                [[], [("margin", 0.02, 0.01, "2026-01-02")]]),
    "evidence_sources": every(POOLS, [(), (0,), (0, 1, 2)]),
    "verdict_lines": every([*VERDICTS, VERDICTS[0].iloc[:0]]),
    "tasks_that_count": every([
        gate(("x", True, True, False)), gate(("x", False, False, False)), gate(("x", None, False, True)),
        gate(("x", None, True, False), ("y", False, False, False), ("z", True, False, True))]),
    "families_agree": every([*VERDICTS, judged().assign(verdict=["equivalent", "different"])]),
    "headline": every([table("outcome", *zip(given), pair="p", level=level, claim="the null effect, all tasks")
                       for given in ((), *((o,) * n for o in OUTCOMES for n in (1, 3)), OUTCOMES)
                       for level in ("scores", "geometry")], CONTROLS[:3]),
    "error_sentences": every([pd.DataFrame({"pair": "p", "share": given, "component": [
        "seed", "task", "seed_task", "query", "residual"]}) for given in ((NAN,) * 5, (1, 0, 0, 0, 0), (0.2,) * 5)]),
    "analyses_agree": every([table("method verdict", *zip("xyz", words, strict=False), pair="a-vs-b") for words in (
        WORDS[:1], WORDS[:1] * 3, WORDS[:3], WORDS[2:])], [judged(word) for word in WORDS]),
    "simulation_sentence": every([SIMULATED, SIMULATED.assign(limit=False), *(
        SIMULATED.assign(false_equivalence=v, false_difference=v) for v in (0.0, 1.0))]),
    "gate_sentence": every([SIMULATED.assign(uninformative=GATED.where(GATED.isna(), v)) for v in (GATED, 0.0, 1.0)]),
    "simulation_origin": every([RECORD], ["now", "another"]),
    "sight": every(CONTROLS), "power_advice": every(PLANS, [0.01, 1.0]),
    "controls_said": every([*CONTROLS, controls(NOT_SHOWN, reason="one seed says nothing of other seeds")]),
    "committed_origin": every([RECORD, {**RECORD, "judged": RECORD}])}
OF_SMOKE = [test_answer.verdicts(word, competent).assign(**facts) for word in WORDS for competent in (None, 0, 1, 4)
            for facts in ({"seeds": 1, "tasks": 1, "margin": 0.01}, {"difference": 0.0, "low": 0.0, "high": 0.0})]
OF_SMOKE += [OF_SMOKE[0].assign(difference=d, low=d, high=d) for d in (-1.0, -0.01, 0.01, 1.0)]
level = partial(table, "layer_x value low high", similarity="CKA", null=0.1)
TEXTS = [pd.DataFrame({"set": names, "text": "x"}) for names in (["maths"], ["maths", "maths", "general"])]
GIVEN["answer"] = {
    "answer": every([SMOKE, small(layers=1), small(layers=4)], OF_SMOKE[::5], CONTROLS[:4], [
        test_answer.similar(NAN), test_answer.similar(1.0), test_answer.similar(0.8).iloc[:0]]),
    "comparison": every([level(("0", *SOME)), level(("0", *ZERO), ("1", *ZERO)), level(("0", *ONE), ("1", *ZERO))],
                        TEXTS, ["token", "word", "text"]),
    "choice": every([SMOKE], OF_SMOKE), "cost_of_more": every(PLANS, VERDICTS[:-1:4], [0.01, 1.0]),
    "not_covered": every([SMOKE, small(steps=1, layers=1), small(layers=2)], OF_SMOKE[::5]),
    "loading": every(["data/runs/one/model", "a folder's"])}
START = card_of(None, 0.3, 0.4, 0.5, 0.5)
CARDS = [{"base": card_of(None, given, given, given, given)} for given in (0.0, 0.03, 0.3, 0.8, 1.0)] + [
    {"base": START, "up": card_of("base", 1.0, 1.0, 1.0, 1.0, (0.7, 0.6, 0.8)), "mute": card_of("base", 0.0, 0.0, 0.0),
     "same": card_of("base", 0.3, 0.4, 0.5, 0.5, ZERO)}, {"base": START, "low": card_of("base", 0, 0, 0, 0, (-1,) * 3)}]
ALONG = {"again_from_shipped": {"rlvr": 0.0}, "profile": {"backbones": [{"name": name, "arm": arm} for name, arm in (
    ("lm", "base"), ("rlvr", "rlvr"), ("rlvr-b", "rlvr"), ("long", "rlvr-long"), ("sft", "sft"))]}}
GIVEN["backbones"] = {
    "where_backbones_come_from": every([SMOKE, MINI, SMOLLM2, SMOKE.model_copy(
        update={"backbones": SMOKE.backbones[:1]}), MINI.model_copy(update={"backbones": MINI.backbones[1:2]})]),
    **dict.fromkeys(("findings", "changes_said"), every(CARDS)), "problems_said": every([
        backbones.make_cards(MINI), {"base": {"accuracy_by_family": {"sampled": {"sums": 0, "products": 0}}}}]),
    "along_said": every([along(1), along(1, 2), along(1, span=ONE), along(2, rounded=ZERO), along(
        1, 20, span=(0.5, NAN, NAN), weights=1.0)], [ALONG, {**ALONG, "again_from_shipped": {}}])}
TWINS = [robustness.robustness_table(twins, ["twin"]) for twins in variants("twin")]
JOB = {"seconds": 0.0, "peak_mb": 0, **dict.fromkeys(("written", "commit", "machine", "python"), "2026-01-01")}
GIVEN["pages"] = {"filled_page": every([partial(pages.filled_page, **dict.fromkeys(
    ("title", "models", "manner", "texts", "rows", "chapters"), "one"))], ["compare.md"]), "front_page": every(
        [fronted], TEXTS, ({}, {"query": "q: "}), ({}, {"09_probes": "none has a label"}),
        ({}, {"unit": "word", "texts_per_set": 1}))}
GIVEN["paper"] = {"published_scores_said": every([reanalyse(1.0), reanalyse(0.01), *(
    reanalyse(1.0).assign(verdict=word) for word in WORDS[:4])]), "realignment_counted": every([
        table("rise pairs text p_rise", *rows) for rows in (
            [(0, 1, "CoT", 1.0)], [(1, 1, "CoT", 0.5)], [(0, 4, "CoT", 1.0), (4, 4, "MMLU-Pro", 0.0)])])}
GIVEN["robustness"] = {"why_twins": every(METRIC_FAMILIES), "twins_said": every(TWINS), "attacks_said": every(
    variants("attack")), "robustness_sentences": every(TWINS, [["twin"]])}
GIVEN["run_records"] = {"brief": every([SMOKE, SMOKE.model_copy(update={"seeds": (0,)})], [
    [JOB], [JOB, {**JOB, "commit": "def", "seconds": 60.0, "peak_mb": 1}]])}
point = partial(table, "a b task", pair="a-vs-b")
condition = partial(table, "condition difference low high", pair="a-vs-b")
DONE = {**RECORD, "not_done": [], "recipe_differs": 0.0}
RUNS = [{"rows": ["recipe"], "commit": "0" * 40}, {"rows": ["a", "b"], "commit": "1" * 40}]
GIVEN["scores"] = {
    "counted": every([0, 1, 1.0, 2], ["point", "training text", "query"]),
    "by_dimensions": every([SMOKE], [scored("x"), scored("xy", 0.0)], [
        scored("x").iloc[:0].assign(dimensions=()), scored("x").assign(dimensions=1)]),
    "kept_sentence": every([kept], [0, 1, 1000], [1, 2], [0, 2**20]),
    "gains": every([*map(gained, SPANS), gained(*SPANS, families=("all tasks",))]),
    "beside_lexical": every([SMOKE], [scored(tasks, 0.5, bm25) for tasks in ("x", "xy") for bm25 in (None, 0, 0.5, 1)]),
    "gain_summary": every([gained(*spans, like=like) for spans in (SPANS, SPANS[1:3], SPANS[:1]) for like in (-1, 1)]),
    "items_alike": every([point((0.0, 0.0, "x")), point((0.0, 1.0, "x")), point(*[(1.0, 1.0, "x")] * 3), point(
        (0.0, 1.0, "x"), (1.0, 0.0, "x"), (0.5, 0.5, "y")), point((0.1, 0.2, "x"), (0.3, 0.5, "x"))]),
    "difference_sentence": every([condition(("recipe", *span)).assign(task="all tasks", seeds=n).iloc[0] for
                                  span in SPANS for n in (1, 2)]),
    "against_recipe": every([condition(("recipe", *SOME), ("causal", *span))[:n] for span in SPANS for n in (1, 2)]),
    "realignment_and_scores": every([table("rows rho low high", given, pair="p", metric="knn") for given in (
        *((n, *NONE) for n in (0, 1, 4, 12)), *((12, *span) for span in SPANS))]),
    "realignment_sentences": every([moved(a=0.0), moved(a=1.0, b=1.0), moved(a=-1.0), moved(a=1.0, b=-1.0, c=0.0)]),
    "failure_signatures": every([table_of({"recipe": {}}), signs(0.0), signs(1.0), signs(-1.0, 2)]),
    "committed_ablations": every([DONE, {**DONE, "not_done": ["a", "b"]}, {**DONE, "runs": RUNS[:1]},
                                  {**DONE, "runs": RUNS}, {**DONE, "runs": RUNS, "recipe_differs": 0.01}]),
    "committed_film": every([RECORD, {**RECORD, "hours": 1.0}]),
    "foretold_said": every([foretold(ONE, 0).iloc[:0], *(foretold(NONE, n) for n in (0, 1, 120)), *(
        foretold(span, 50) for span in SPANS)])}
ROWS = [row(*span, null=null, ceiling=ceiling, runs=runs, crossed=crossed, metric=metric)
        for span in (*SPANS, (0.9995, 0.999, 0.9999), (0.5, NAN, NAN), NONE) for metric in ("cka", "residual_ratio")
        for null, ceiling, runs, crossed in (
            (0.1, NAN, NONE, NONE), (NAN, NAN, NONE, NONE), (0.0, 1.0, ONE, ONE), (0.1, 0.9999, (0.8, 0.7, 0.9), SOME),
            (0.5, 0.5, (0.5, NAN, NAN), (0.5, NAN, NAN)))]
PAIRS = [pd.DataFrame(list(given)).assign(models=["backbones", "embedders"][:len(given)], metric="cka", layer_x="1",
                                          set="maths", task="regression", split="test", quantity="delta")
         for given in (*product(ROWS[::2]), *product(ROWS[::6], ROWS[::7]))]
STEPS = [pd.DataFrame([row(*span, metric=metric) for span in spans]).assign(step=range(len(spans))) for spans in (
    (ZERO,), (ZERO, ONE), (ONE, ZERO), SPANS[2:], (ZERO, NONE), (ONE,) * 3) for metric in ("cka", "residual_ratio")]
OVER = [over_steps(crossed, runs, metric, itself) for crossed, runs, itself in (
    ((0.9,), (0.8,), (0.5,)), ((0.8,), (0.9,), (1.0,)), ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
    ((0.6, 0.7, 0.9), (0.8, 0.8, 0.8), (0.9, 0.5, 0.6)), ((0.9, 0.7, 0.0), (0.9, 0.8, 0.8), (0.9, 0.8, 0.7)))
    for metric in ("debiased_cka", "residual_ratio")]
cells = [table("value", *((value,) for value in given), models="backbones", metric="cka") for given in (
    (0.0,), (1.0,), (0.5, 1.0))]
place = partial(table, "layer kind share p holm", pair="a-vs-b", of="x", low=0.0, high=0.0)
GIVEN["similarity"] = {
    "value_said": [ZERO, ONE, SOME, NONE, (0.9995, 0.999, 0.9999), (0.5, NAN, NAN)],
    **{f"against_{what}": every(ROWS) for what in ("null", "runs", "ceiling")},
    "closer_after_training": every(ROWS[::2], ROWS[::4]),
    "similarity_sentence": every(PAIRS, ["CKA"]),
    "by_layer": every([pd.concat([part.assign(layer_x=layer) for layer in "012"]) for part in PAIRS]),
    "transfer": every(PAIRS, ["regression"]), "over_training": every(STEPS, ["CKA"]),
    "beside_runs": every([*OVER, film([1.0] * 3, itself=1.0), film([0.5, 0.9, 0.7], 0.6, 0.6, 0.1)], ["CKA"]),
    **dict.fromkeys(("meeting", "only_falls"), every(OVER, ["CKA"])),
    "between_sets": every([pd.concat([part, part.assign(set="general")]) for part in PAIRS], ["maths"], ["general"]),
    "why_maxima": every(),
    "above_maximum": every(cells, cells, ["cka"]),
    "foretold_where_said": every([
        place(), place(("1", "query, all", NAN, NAN, NAN)), place(*((n, "query, all", 0.1, 0.5, 1.0) for n in "01")),
        place(("1", "query, all", 1.0, 0.0, 0.0), ("1", "query, instruction", NAN, NAN, NAN)),
        place(("1", "query, a", 0.0, 1.0, 1.0), ("1", "query, b", -0.1, 1.0, 1.0))], [0.05, 1e-6])}
GIVEN["texts"] = {
    "margin_sentence": every([{"margin": 0.95, "tasks": {}}, *({"margin": 0.95, "tasks": {"x": dict(zip(
        ("mined", "left_out", "suspect_share", "largest_ratio"), given, strict=True))}} for given in (
            (0, 0, 0.0, None), (1, 0, 0.0, None), (1, 1, 1.0, 1.0), (3, 2, 0.5, 0.95)))]),
    "overlap_sentence": every([overlapping], [["x"], ["hit"]], [["x"], ["hit"]]),
    "published_sets_card": every([[made_set()], [made_set(2, ())], [made_set(), made_set(3, ("a", "b"), 1)]])}
GIVEN["training"] = {
    "loss_sentence": every([pd.DataFrame({"loss": loss}) for loss in (
        [0.0], [9.0], [1.0] * 8, [6.0] * 3 + [0.0] * 40, [2.0, 9.0] * 20)], [SMOKE.recipe]),
    "masked_sentence": every([table("duplicates known near", *given) for given in (
        [(0, 0, 0)], [(1, 0, 0)], [(0, 1, 1)], [(1, 1, 1), (0, 0, 0)], [(2, 3, 4), (5, 6, 7)])], [
            SMOKE.recipe, small(near_positive_margin=0.0).recipe]),
    "arms_sentence": every([trained], [(0,), (0, 1)], ["x"], ["x", "y"])}
PARTS = [parts_of("knn", *values).assign(of=of) for values in (ZERO, ONE, (0.4, 0.2, 0.5), NONE, (0.4, NAN, NAN))
         for of in ("items", "mean")]
PARTS += [PARTS[4].assign(**given) for given in (
    {"share_low": 0.1, "share_high": 0.3}, {"share_low": -2, "share_high": 2},
    {"share_low": 0.0, "share_high": 0.0, "over": "items"})]
lost = partial(table, "crossed crossed_low crossed_high runs runs_low runs_high", task="x", set="maths", split="test")
MOVED = [similarities(base_vs_rlvr=one, base_vs_cpt=other, **more) for one, other in (
    ((0.9, 0.9), (0.9, 0.9)), ((1.0, 1.0), (0.0, 0.0)), ((0.0, 0.0), (1.0, 1.0)), ((0.5, 0.5), (0.9, 0.1)))
    for more in ({}, {"base_vs_sft": (0.5, 0.5)})] + [
    FOUND, FOUND.assign(low=NAN, high=NAN), similarities(base_vs_sft=(0.5, 0.4)), similarities(base_vs_rlvr=(1, 1))]
GIVEN["yardsticks"] = {
    "sides_said": every([table("models runs", *rows) for rows in (
        [("backbones", NAN)], [("embedders", NAN)], [("embedders", 1.0)], [("embedders", NAN), ("embedders", 0.0)])]),
    "tokens_said": every([pd.DataFrame({"n": n}) for n in ([NAN], [4], [2000, 400])], [
        *METRIC_FAMILIES.values(), ["cka"], ["correlation"], list(METRICS)]),
    "layers_said": every([layered], [None, parts_of("knn", 0.4, 0.2, 0.5, k=10), *PARTS[::2]], [["knn"]]),
    "scores_said": every([*PARTS, pd.concat(PARTS[4:6])]),
    "similarity_name": every(METRICS, [None, 1, NAN, 10.0]),
    "readouts_said": every([lost((*crossed, *runs)).assign(models=models) for crossed in (
        *SPANS[:4], NONE, (1.0, NAN, NAN)) for runs in (ONE, SOME, NONE) for models in ("embedders", "backbones")]),
    "sources_said": every([yardsticks.source_table(None, part) for part in (None, *PARTS, pd.concat(
        [part.assign(pair=f"p{i}") for i, part in enumerate(PARTS)]))]),
    "committed_movement": every(["own"], [{"similarities": one} for one in MOVED], [PROFILE], [
        {}, {"rlvr": {"steps": 1}, "cpt": {"steps": 0}}], [[], ["- Does RLVR ..."]]),
    "movement_said": every([movements(one, PROFILE) for one in MOVED], [None, {}, {"base-vs-rlvr": 1}])}
EXTREMES: dict[str, list[Callable[[], str]]] = {
    f"{module}.{name}": [partial(*one) if one and callable(one[0]) else partial(FUNCTIONS[f"{module}.{name}"], *one)
                         for one in given] for module, listed in GIVEN.items() for name, given in listed.items()}
COUNTED = ("points|seeds|tasks|steps|texts|queries|pairs|controls|rows|claims|models|items|orders|states|cells|maps|"
           "tokens|updates|blocks|embeddings|backbones|runs|arms|duplicates|positives|similarities|layers|studies|sources")
FAULTS = {"no word for a reader": r"\b(nan|NaN|inf|Int64)\b|\bNone\b(?! of\b)|<NA>|\[\]|\(\)|[{}]",
          "spaces or stops": r"(?<=\S)  | [,.;:](?![\w.])|(?<!\.)\.\.(?!\.)|\( |[:,;(]\.|,,|;;",
          "one of many": rf"(?<![\d.,])(?<!\d of )1 ((?!of |by |both )[a-z-]+ )?({COUNTED})\b",
          "none of none": r"\b0 of 0\b"}


def faults(said, sentence=True):
    """What keeps a text from being read; code, roles and the padding of tables are left out."""
    plain = re.sub(r"```.*?```|(\{\w+\})?`+[^`\n]*`+", "code", said, flags=re.S)
    lines = "\n".join(line.strip() for line in plain.splitlines() if not line.startswith("|"))
    found = {name: hit[0] for name, pattern in FAULTS.items() if (hit := re.search(pattern, lines))}
    left = re.sub(r"[^()\[\]]", "", plain)
    for _ in left:
        left = left.replace("()", "").replace("[]", "")
    ends = not sentence or not said or said.rstrip("* \n")[-1] in ".:)|`"
    return found | ({"brackets": left} if left else {}) | ({} if ends else {"end": said[-9:]})


def test_every_sentence_is_listed():
    assert set(EXTREMES) | set(ELSEWHERE) == set(FUNCTIONS) and len(FUNCTIONS) > 70
    assert not set(EXTREMES) & set(ELSEWHERE) and len(ELSEWHERE) < 15 and all(EXTREMES.values())


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_tested_elsewhere_is(name):
    file, _, test = ELSEWHERE[name].partition("::")
    body = re.search(rf"^def {test}\(.*?(?=^\S|\Z)", (store.ROOT / file).read_text(encoding="utf8"), re.S | re.M)
    assert body and f"{name.rpartition('.')[2]}(" in body[0]


@pytest.mark.parametrize("name", EXTREMES)
def test_every_sentence_survives_the_extremes(name):
    for call in EXTREMES[name]:
        said = call()
        assert isinstance(said, str) and not faults(said, name not in CLAUSES), said


def test_what_cannot_be_read_is_found():
    for said in ("nan.", "at 1 seeds.", "of 1 retrieval tasks.", "a  b.", "0 of 0.", "(a.", "a ,", "a .", "None.",
                 "a..", "[0.5, inf].", "no end"):
        assert faults(said), said
    assert not faults("- **a**: 1 of 1 tasks, 11 seeds, 0.1 points, None of the 2 texts ... (`f()` [0.1, 1.0]).")
