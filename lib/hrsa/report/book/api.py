"""Pages on rooms of the package: what their docstrings say, read from the source without importing it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from hrsa.report.foreign import as_block, as_code, as_markdown
from hrsa.study.code_hash import PACKAGE

ROOMS_SHOWN = ("similarity", "verdict", "training")  # what is of use without a study
API = {room: f"api_{room}" for room in ROOMS_SHOWN}  # room -> page
_HEADS = {"similarity": "Similarity of token states", "verdict": "Verdicts", "training": "Training"}
_MARKED = re.compile(r"(`[^`]+`|\*\*[^*\s][^*]*\*\*|(?<![\w*])\*[^*\s][^*]*\*(?![\w*]))")  # code, strong, emphasis
_ARGUMENTS = re.compile(r"[A-Z]\w+:")


def api_page(room: str) -> str:
    """The page of a room, Markdown: its docstring, then its modules with their public functions and classes."""
    folder = PACKAGE / room
    parts = [f"# {_HEADS[room]}: `hrsa.{room}`", docstring_said(_docstring(folder / "__init__.py"))]
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            parts += [f"## `hrsa.{room}.{file.stem}`", docstring_said(_docstring(file))]
            parts += _members(ast.parse(file.read_text(encoding="utf8")))
    return "\n\n".join(parts) + "\n"


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf8"))) or ""


def _members(module: ast.Module) -> Iterator[str]:
    """Headings, signatures and docstrings of what a module defines for others, in its order."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"### `{node.name}`"
            yield f"```python\n{_signature(node)}\n```"
            yield docstring_said(ast.get_docstring(node) or "")
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"```python\n{node.name}.{_signature(method)}\n```"
                    yield docstring_said(ast.get_docstring(method) or "")


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """`name(arguments) -> type` of a function; of a class that of its `__init__`, or its fields."""
    if isinstance(node, ast.FunctionDef):
        arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
        return f"{node.name}({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    made = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if made is not None:
        return f"{node.name}{_signature(made).removeprefix('__init__')}"
    fields = ", ".join(ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign))
    return f"class {node.name}({fields})"


def docstring_said(text: str) -> str:
    """A docstring as Markdown: its paragraphs, lists and arguments, with code and emphasis; examples as code."""
    return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n", inspect.cleandoc(text)))) if text else ""


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if lines[0].startswith((" ", ">>>")):
        return as_block(inspect.cleandoc(text), "pycon" if lines[0].startswith(">>>") else "text").strip()
    if _ARGUMENTS.fullmatch(lines[0]):
        return "\n".join([f"{lines[0]}\n", *_items(lines[1:], r" {4}\S", "- ")])
    return "\n".join(_items(lines, r"\d+\. \S", ""))


def _items(lines: list[str], start: str, mark: str) -> Iterator[str]:
    """Lines joined to items, each of which begins where a line looks like `start`."""
    items: list[list[str]] = []
    for line in lines:
        if not items or re.match(start, line):
            items.append([])
        items[-1].append(line.strip())
    return (mark + _line(" ".join(item)) for item in items)


def _line(text: str) -> str:
    """Inline Markdown of a docstring's words: code and emphasis as they are marked, the rest as text."""
    said = []
    for part in _MARKED.split(text):
        mark = next((mark for mark in ("`", "**", "*") if part.startswith(mark) and part.endswith(mark)), "")
        inside = part[len(mark):len(part) - len(mark)]
        words = as_code(inside) if mark == "`" else re.sub(r"\S+", lambda word: as_markdown(word[0]), inside)
        said.append(words if mark == "`" else f"{mark}{words}{mark}")
    return "".join(said)
