"""Data cards in Markdown and the licences, written beside the tables from what the builder recorded."""

from __future__ import annotations

from pathlib import Path

from suite_sources.fetch import Sources

LICENCES = (
    "wordnet-base", "postgresql-doc-15", "libreoffice-help-en-us", "perl-doc", "metamath-databases", "sword-text-kjv",
    "sword-text-web", "r-bioc-go.db", "champ-dataset", "numpy", "scipy", "sympy", "pandas", "scikit-learn", "networkx",
    "nbconvert", "mpmath",
)
COMMON = ("MPL-2.0", "Apache-2.0", "Artistic", "GPL-1")  # texts that Debian keeps for all packages
LONGEST = 12_000  # characters of a package's licence file; bundled libraries' licences come after its own
OVERVIEW = """# Text suite

Real text from Debian and PyPI packages, made by `data/build_suite.py`, which `--check` compares with what is here.

| folder | what | files |
|---|---|---|
| `train/` | pairs to train on, one table a task | `<task>.parquet` [query, positive], `tasks.json` |
| `eval/` | tasks to score | `<Task>/{{corpus,queries,qrels}}.parquet` or `{{train,test}}.parquet`, `tasks.json` |
| `probe/` | texts whose token states are compared | `general.parquet`, `maths.parquet`, `sets.json` |
| `licences/` | licences and notices of the packages | one text a package |

No training pair shares a sequence of 13 words with an evaluation or probe text (pairs that did were left out; a test
checks the files). Texts keep the licence of their source; excerpts and removed mark-up are the only changes.

{counts}
"""


def _card(name: str, content: dict) -> str:
    tables = "; ".join(f"`{k}` {v['rows']} rows, sha256 of content `{v['sha256']}`"
                       for k, v in content["tables"].items())
    facts = [("instruction", content.get("instruction")), ("family", content.get("family")),
             ("metric", content.get("metric")),
             ("reasoning-intensive", {True: "yes", False: "no"}.get(content.get("reasoning"))),
             ("source", "; ".join(content["source"])), ("licence", content["licence"]),
             ("made from it", content["how"]), ("known faults", content["faults"]),
             ("pairs available", content.get("available")),
             ("left out for overlap with evaluation", content.get("left out for overlap")), ("tables", tables)]
    return f"## {name}\n\n" + "\n".join(f"- **{key}**: {value}" for key, value in facts if value is not None) + "\n"


def _rows(described_as: dict[str, dict]) -> str:
    lines = ["| | what | rows | licence |", "|---|---|---|---|"]
    for file, content in described_as.items():
        for name, card in content.items():
            counts = {table: facts["rows"] for table, facts in card["tables"].items()}
            rows = ", ".join(f"{table} {count}" if len(counts) > 1 else str(count) for table, count in counts.items())
            lines.append(f"| {file.split('/')[0]} | {name} | {rows} | {card['licence']} |")
    return "\n".join(lines)


def write(folder: Path, described_as: dict[str, dict], sources: Sources) -> None:
    """Write `README.md` here and in each part, and `licences/`; ValueError if a licence cannot be read."""
    (folder / "README.md").write_text(OVERVIEW.format(counts=_rows(described_as)), encoding="utf8")
    for file, content in described_as.items():
        part = file.split("/")[0]
        title = {"train": "Training tasks", "eval": "Evaluation tasks", "probe": "Probe texts"}[part]
        cards = "\n".join(_card(name, card) for name, card in content.items())
        (folder / part / "README.md").write_text(f"# {title}\n\n{cards}", encoding="utf8")
    target = folder / "licences"
    target.mkdir(parents=True, exist_ok=True)
    for name in LICENCES:
        text = sources.licence(name)
        if len(text) > LONGEST:
            text = text[:LONGEST].rsplit("\n", 1)[0] + "\n\n[The package's file goes on with parts not used here.]\n"
        (target / f"{name}.txt").write_text(text, encoding="utf8")
    for name in COMMON:
        source = Path("/usr/share/common-licenses") / name
        if not source.is_file():
            raise ValueError(f"expected the licence {name} in {source.parent}, got none: run this on Debian")
        (target / f"{name}.txt").write_text(source.read_text(encoding="utf8"), encoding="utf8")
