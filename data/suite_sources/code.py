"""Functions of installed Python packages: what the docstring says, and the code without the docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from suite_sources.fetch import Sources
from suite_sources.pieces import Card, Evaluation, Training, norm, retrieval, words

TRAINING_PACKAGES = ("numpy", "scipy", "sympy", "pandas", "scikit-learn")
DISTRACTORS = ("nbconvert", "mpmath")
LINES = 30  # of code, at most
INSTRUCTION = "Given a description of what a function does, retrieve the Python code that implements it."


def functions(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (description, code, name) of each documented function of 3 to 45 lines, tests left out."""
    for file in sorted(folder.rglob("*.py")):
        if re.search(r"/(tests?|testing)/|/conftest|/test_", file.as_posix()[len(folder.as_posix()):]):
            continue
        source = file.read_text(encoding="utf8", errors="replace")
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue  # templates and stubs for other tools
        lines = source.split("\n")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found = _function(node, lines)
                if found:
                    yield found


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> tuple[str, str, str] | None:
    documented = ast.get_docstring(node)
    if not documented or node.name.startswith("test") or len(node.body) < 2:
        return None
    description = norm(documented.strip().split("\n\n")[0])
    description = re.sub(r":\w+:`~?\.?([^`]*)`|``?([^`]*)``?",
                         lambda m: (m.group(1) or m.group(2) or "").split(".")[-1], description)
    start, doc = node.lineno - 1, node.body[0]
    code = lines[start : doc.lineno - 1] + lines[doc.end_lineno : node.end_lineno]
    if not 5 <= words(description) <= 45 or not 3 <= len(code) <= 45:
        return None
    return description, "\n".join(code[:LINES]), node.name


def training(sources: Sources) -> Training:
    """Descriptions and code of five scientific packages, each description and each body once."""
    pairs = [(description, code) for package in TRAINING_PACKAGES
             for description, code, _ in functions(sources.installed(package))]
    card = Card(TRAINING_PACKAGES, "BSD-3-Clause (NumPy, SciPy, SymPy, pandas, scikit-learn; notices kept)",
                "The first paragraph of a docstring and the function without it, cut at 30 lines.",
                "Boilerplate docstrings are common; methods that only delegate are kept.")
    return Training("py_code", INSTRUCTION, card, pairs, cap=5000)


def networkx(sources: Sources) -> Evaluation:
    """Descriptions of NetworkX functions against its code and that of two other packages."""
    corpus, queries, qrels = {}, {}, {}
    seen = set()
    for package in (*DISTRACTORS, "networkx"):
        for description, code, name in functions(sources.installed(package)):
            if code in seen:
                continue
            seen.add(code)
            number = len(corpus)
            corpus[f"c{number}"] = code
            if package == "networkx" and description not in seen and not name.startswith("_"):
                seen.add(description)
                queries[f"q{number}"] = description
                qrels[f"q{number}"] = {f"c{number}": 1}
    card = Card(("networkx", *DISTRACTORS), "BSD-3-Clause (NetworkX, nbconvert, mpmath; notices kept)",
                "As py_code, on packages that no training text is taken from. Queries are public NetworkX functions; "
                "functions of nbconvert and mpmath are further passages.",
                "Function names give many answers away; some functions have equal descriptions in other words.")
    return Evaluation("NetworkXCodeRetrieval", "retrieval", "ndcg_at_10", INSTRUCTION, card,
                      retrieval(corpus, queries, qrels))
