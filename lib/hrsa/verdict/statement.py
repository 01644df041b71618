"""The statement of a study before its first score: what it estimates, its margin, and whether it was changed later."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from hrsa.study import store
from hrsa.study.profile import Profile
from hrsa.verdict.competence import GATE

ESTIMAND = "mean over tasks of the mean over queries and seeds of score(b) - score(a), arms paired by seed and query"


def statement(profile: Profile) -> dict[str, Any]:
    """What is fixed before any score is seen, with its `hash`."""
    stated = {
        "estimand": ESTIMAND,
        **profile.verdict.model_dump(mode="json"),
        "seeds": list(profile.seeds),
        "family": {pair.name: [pair.a, pair.b] for pair in profile.pairs},
        "gate": GATE,
        "controls": {control.name: control.model_dump(mode="json") for control in profile.controls},
        "tasks": [*profile.suite.tasks, *profile.suite.benchmarks],
    }
    return {**stated, "hash": store.key(**stated)}


def record_statement(profile: Profile) -> list[dict[str, Any]]:
    """Record the profile's statement, once, and return all statements recorded so far, the oldest first.

    Call it before the first score exists. Each entry is a `statement` with the time it was `written`. A statement
    that differs from the last one recorded is added, never put in its place: more than one entry means a change.
    """
    file = store.RUNS / profile.name / "statements.json"
    stated = store.read_json(file) if file.is_file() else []
    if not isinstance(stated, list) or not all(isinstance(entry, dict) and "hash" in entry for entry in stated):
        raise ValueError(f"expected a list of statements in {file}, got {str(stated)[:80]}: restore the file; without "
                         "it a study is stated anew, on the day of the next run")
    current = statement(profile)
    if not stated or stated[-1]["hash"] != current["hash"]:
        stated.append({**current, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        store.write_json(file, stated)
    return stated


def statement_changes(statements: Sequence[dict[str, Any]]) -> list[tuple[str, Any, Any, str]]:
    """What changed from each statement to the next: (item, before, after, when it was written); empty: nothing did."""
    found = []
    for before, after in itertools.pairwise(statements):
        found += [(name, before.get(name), after.get(name), after["written"])
                  for name in sorted((before.keys() | after.keys()) - {"hash", "written"})
                  if before.get(name) != after.get(name)]
    return found


def stated_before(profile: Profile, statements: Sequence[dict[str, Any]]) -> bool:
    """Whether the last statement was recorded before the profile's oldest score was written (true without scores)."""
    written = [store.read_json(file)["written"]
               for file in (store.RUNS / profile.name / "evaluation").glob(f"*/{store.PROVENANCE}")]
    return not written or statements[-1]["written"] <= min(written)
