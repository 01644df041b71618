"""The Berkeley function-calling leaderboard as retrieval: a user's request against all its function descriptions."""

from __future__ import annotations

import json
from pathlib import Path

from suite_sources.fetch import Sources
from suite_sources.pieces import Card, Evaluation, clip, norm, retrieval, shuffled, words

QUERY_FILES = ("live_multiple", "live_simple", "multiple", "simple_python")
CORPUS_FILES = (*QUERY_FILES, "parallel_multiple", "parallel", "live_parallel", "live_parallel_multiple",
                "live_irrelevance", "irrelevance", "simple_java", "simple_javascript")
QUERIES = 600


def describe(function: dict) -> str:
    """One line: name, description, and each parameter with its description."""
    parameters = (function.get("parameters") or {}).get("properties") or {}
    parts = [f"{name} - {(value.get('description') or '') if isinstance(value, dict) else ''}"
             for name, value in parameters.items()]
    return clip(norm(f"{function['name']}: {function.get('description', '')} Parameters: {'; '.join(parts)}"))


def _read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]


def evaluation(sources: Sources) -> Evaluation:
    """Requests with a known function call; every function described anywhere in the set is a passage."""
    folder = sources.wheel("bfcl-eval") / "bfcl_eval" / "data"
    ids, queries, qrels = {}, {}, {}
    for name in CORPUS_FILES:
        answers = {}
        if name in QUERY_FILES:
            file = folder / "possible_answer" / f"BFCL_v4_{name}.json"
            answers = {row["id"]: row["ground_truth"] for row in _read(file)}
        for row in _read(folder / f"BFCL_v4_{name}.json"):
            by_name = {f["name"]: ids.setdefault(describe(f), f"f{len(ids)}") for f in row["function"]}
            right = [by_name[f] for call in answers.get(row["id"], []) for f in call if f in by_name]
            said = [m["content"] for m in row["question"][0] if m["role"] == "user"]
            if right and 4 <= words(said[-1]) <= 120:
                queries[row["id"]], qrels[row["id"]] = norm(said[-1]), dict.fromkeys(right, 1)
    kept = sorted(shuffled(list(queries), "tools")[:QUERIES])
    card = Card(("bfcl-eval",), "Apache-2.0",
                "The last user turn of a request whose right call is known; the passages are all function "
                "descriptions with their parameters.",
                "Functions made for one request often have near-twins from another; only the one offered with the "
                "request counts. Some requests are not in English.")
    return Evaluation("ToolRetrieval", "retrieval", "ndcg_at_10", "Given a user request, retrieve the API function "
                      "that fulfils it.", card, retrieval({i: text for text, i in ids.items()},
                      {k: queries[k] for k in kept}, {k: qrels[k] for k in kept}))
