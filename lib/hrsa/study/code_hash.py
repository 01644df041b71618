"""The code that can change a result, as a hash that goes into an artefact's key.

From a function, names are followed to the definitions that they stand for, through imports, to the end; what is not
reached does not count. A data file of a module's own name counts with every definition of it. Words do not count:
comments, docstrings, the messages of errors and of the log. A function that makes an artefact (by `store.make`) is not
entered from another one: whoever calls it takes the artefact, and its key stands for its code. Nor is `SILENT`: names,
places and progress.

Each call looks at the files on disk, so that a hash is never stale; sources that say the same as before are not
followed again, neither in this process nor in another: their hashes are kept where Python keeps bytecode. What was on
disk when this process started is kept, so that `check_unchanged` can refuse to make an artefact by code that is no
longer what its key names.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SILENT = frozenset(f"hrsa.study.{name}" for name in ("code_hash", "profile", "progress", "sections", "store"))
MAKE = ("hrsa.study.store", "make")
NOTEBOOK = "hrsa.notebook"  # the name under which a notebook's source is read
SETTLED = 2 * 10**9  # age (ns) from which a file's time of change tells a change: a clock ticks in milliseconds
Node = tuple[str, str]  # module, definition in it


@dataclass(frozen=True)
class Definition:
    """A function, class or constant of a module."""

    statements: tuple[ast.stmt, ...]  # several where a name is bound more than once
    parent: tuple[str, ...]  # package that its relative imports count from

    @cached_property
    def text(self) -> str:
        """What it says, without words."""
        return "".join(map(_written, self.statements))

    @cached_property
    def names(self) -> frozenset[tuple[str, ...]]:
        """Dotted names that stand in it."""
        return frozenset(chain for statement in self.statements for chain in _chains(statement))

    @cached_property
    def imports(self) -> dict[str, str]:
        """Imports made inside it: name -> dotted name."""
        found = {}
        for node in (node for statement in self.statements for node in _statements(statement)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= _imported(node, self.parent)
        return found


@dataclass(frozen=True)
class Module:
    """The definitions of one source file."""

    definitions: Mapping[str, Definition]
    imports: Mapping[str, str]
    loose: tuple[Definition, ...]  # statements that run at import and define nothing


class _Sources:
    """Source texts of the package, and what was found by following them."""

    def __init__(self, texts: Mapping[str, str], folder: Path):
        self.texts = texts  # of every module and its data files, by name within the package
        self._links: dict[Node, list[Node]] = {}
        self._file_of_hashes = folder / "__pycache__" / f"code_hashes.{sys.implementation.cache_tag}.json"

    def hash(self, roots: tuple[Node, ...]) -> str:
        """Hash of all that is reached from some definitions."""
        return self.kept(_digest(map(".".join, roots)), lambda: _digest(_lines(self.reached(roots))))

    def kept(self, question: str, answer: Callable[[], str]) -> str:
        """A hash that `answer` finds in these sources, found once by all processes that may write where it is kept."""
        if question not in self._hashes:
            self._hashes[question] = answer()
            if not sys.dont_write_bytecode:
                with contextlib.suppress(OSError):
                    self._write_hashes()
        return self._hashes[question]

    @cached_property
    def _own_hash(self) -> str:
        return _digest(f"{name} {len(text)} {text}" for name, text in self.texts.items())

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Hashes kept by an earlier process; none where they are of other sources or the file is not whole."""
        try:
            kept = json.loads(self._file_of_hashes.read_text(encoding="utf8"))
            if kept["sum"] == _sum(self._own_hash, kept["hashes"]):
                return kept["hashes"]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass
        return {}

    def _write_hashes(self) -> None:
        self._file_of_hashes.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._file_of_hashes.parent, encoding="utf8", delete=False) as file:
            try:
                json.dump({"sum": _sum(self._own_hash, self._hashes), "hashes": self._hashes}, file)
                file.flush()
                os.replace(file.name, self._file_of_hashes)
            except BaseException:
                os.unlink(file.name)
                raise

    def reached(self, roots: Iterable[Node], stages: set[Node] | None = None) -> dict[Node, str]:
        """Definitions reached from `roots`, with their text. Not entered: `stages`, or without them whatever makes an
        artefact."""
        todo, found = list(roots), {}
        first = set(todo)
        while todo:
            node = todo.pop()
            name, wanted = node
            if node in found or name in SILENT:
                continue
            module = self._module(name)
            if wanted not in module.definitions:
                raise ValueError(f"expected a definition {wanted!r} in {name}, got none there")
            links = self._linked(node, module, module.definitions[wanted])
            ends = node in stages if stages is not None else MAKE in links and node not in first
            if ends:
                continue
            found[node] = module.definitions[wanted].text
            if data := self.texts.get(str(self._file(name.split("."))).removesuffix("py") + "yaml"):
                found[name, "data"] = data
            todo += links
            for place, loose in enumerate(module.loose):
                node = name, f"statement {place}"
                if node not in found:
                    found[node] = loose.text
                    todo += self._linked(node, module, loose)
        return found

    def links(self, name: str, module: Module, definition: Definition) -> set[Node]:
        """The definitions that stand in one of a module."""
        return {link for chain in definition.names
                for link in self._resolve(name, module, definition.imports, chain)}

    def _linked(self, node: Node, module: Module, definition: Definition) -> list[Node]:
        if node not in self._links:
            self._links[node] = list(self.links(node[0], module, definition))
        return self._links[node]

    def _resolve(self, name: str, module: Module, inside: Mapping[str, str], chain: tuple[str, ...]) -> Iterator[Node]:
        """The definitions that a dotted name in `module` stands for; none for names of other packages."""
        head, rest = chain[0], chain[1:]
        if head in inside or head in module.imports:
            yield from self._follow((inside.get(head) or module.imports[head]).split("."), rest)
        elif head in module.definitions:
            yield name, head

    def _follow(self, target: list[str], rest: tuple[str, ...]) -> Iterator[Node]:
        """What `target` (a dotted name as it is imported) and then the attributes `rest` stand for."""
        if target[0] != "hrsa":
            return
        parts = [*target, *rest]
        depth = next((n for n in range(len(parts), 0, -1) if self._file(parts[:n])), 0)
        if not depth:
            return
        name, left = ".".join(parts[:depth]), tuple(parts[depth:])
        module = self._module(name)
        if left:
            yield from self._resolve(name, module, {}, left)
        else:  # a module handed on as a value: anything in it may be used
            for known in (*module.definitions, *module.imports):
                if known != "annotations":
                    yield from self._resolve(name, module, {}, (known,))

    def _file(self, parts: list[str]) -> str | None:
        """The source file of a dotted name, or None when it is not a module of the package."""
        if parts[0] != "hrsa":
            return None
        stem = "/".join(parts[1:])
        return next((name for name in (f"{stem}.py", f"{stem}/__init__.py".lstrip("/")) if name in self.texts), None)

    def _module(self, name: str) -> Module:
        file = self._file(name.split("."))
        if file is None:
            raise ValueError(f"expected a module of hrsa, got {name!r}")
        return _parsed(name, file.endswith("__init__.py"), self.texts[file])


def _sources() -> _Sources:
    """The sources as they are on disk now. A file is read again when its time of change, size or number is another,
    and for as long as it was changed just now."""
    found, now = [], time.time_ns()
    for folder, inner, files in os.walk(PACKAGE):
        inner[:] = [name for name in inner if name != "__pycache__"]
        within = folder[len(str(PACKAGE)) + 1:].replace(os.sep, "/")
        for file in files:
            if file.endswith((".py", ".yaml")):
                path = os.path.join(folder, file)
                seen = os.stat(path)
                read = _text if seen.st_mtime_ns < now - SETTLED else _text.__wrapped__
                found.append((f"{within}/{file}".lstrip("/"), read(path, seen.st_mtime_ns, seen.st_size, seen.st_ino)))
    return _known(tuple(sorted(found)), PACKAGE)


@lru_cache(maxsize=1024)
def _text(path: str, *_: int) -> str:
    with open(path, encoding="utf8") as handle:
        return handle.read()


@lru_cache(maxsize=8)  # by what the files hold
def _known(files: tuple[tuple[str, str], ...], folder: Path) -> _Sources:
    return _Sources(dict(files), folder)


_AT_START = _sources()


def code_hash(*roots: Callable | type | str) -> str:
    """Sixteen hexadecimal digits for the code that these functions or classes of the package can run; a dotted name
    stands for one that need not be imported.

    ValueError when one of them is not a definition of the package.
    """
    return _sources().hash(tuple(map(_node, roots)))


def check_unchanged(*roots: Callable | type) -> None:
    """RuntimeError when the code of these functions has changed on disk since this process started."""
    nodes = tuple(map(_node, roots))
    if _AT_START.hash(nodes) != _sources().hash(nodes):
        named = ", ".join(f"{module}.{name}" for module, name in nodes)
        raise RuntimeError(f"expected the code that this process started with, got a file changed since that {named} "
                           "depends on: restart the kernel, or give the command again")


def notebook_hash(path: Path, stages: Iterable[Callable | str]) -> str:
    """Hash of a notebook's py:percent source and of the code it can run, artefacts included that it makes itself.

    `stages` are the functions whose artefacts other jobs have made before.
    """
    text, sources, ends = path.read_text(encoding="utf8"), _sources(), {_node(stage) for stage in stages}

    def answer() -> str:
        module = _parsed(NOTEBOOK, False, text)
        links = {link for part in (*module.definitions.values(), *module.loose)
                 for link in sources.links(NOTEBOOK, module, part) if link[0] != NOTEBOOK}
        return _digest([text, *_lines(sources.reached(links, ends))])

    return sources.kept(_digest([text, *sorted(map(".".join, ends))]), answer)


def _lines(found: Mapping[Node, str]) -> list[str]:
    return [f"{module}.{name} {text}" for (module, name), text in sorted(found.items())]


def _sum(sources: str, hashes: Mapping[str, str]) -> str:
    return _digest([sources, *(f"{question} {value}" for question, value in sorted(hashes.items()))])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def reached(*roots: Callable | type) -> set[Node]:
    """The definitions that `code_hash` covers: (module, name)."""
    return set(_sources().reached(map(_node, roots)))


def _node(root: Callable | type | str) -> Node:
    """Where a function or class is defined."""
    if isinstance(root, str):
        module, _, name = root.rpartition(".")
        return module, name
    node = root.__module__, root.__qualname__.partition(".")[0]
    if node[0].partition(".")[0] != "hrsa":
        raise ValueError(f"expected a function or class of hrsa, got {root!r}")
    return node


@lru_cache(maxsize=1024)  # by the text itself: another text is another entry
def _parsed(name: str, package: bool, text: str) -> Module:
    """The definitions of a source text."""
    parent = tuple(name.split(".") if package else name.split(".")[:-1])
    statements: dict[str, list[ast.stmt]] = {}
    imports: dict[str, str] = {}
    loose = []
    for statement in _flat(ast.parse(text).body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imports |= _imported(statement, parent)
            continue
        for target in _defined(statement):
            statements.setdefault(target, []).append(statement)
        if not _defined(statement) and _written(statement):
            loose.append(Definition((statement,), parent))
    return Module({target: Definition(tuple(found), parent) for target, found in statements.items()}, imports,
                  tuple(loose))


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, with those under `if TYPE_CHECKING` as if they stood there alone; not what it does when
    it is run as a program."""
    for statement in body:
        if not isinstance(statement, ast.If):
            yield statement
        elif "__name__" not in ast.unparse(statement.test):
            yield from _flat(statement.body + statement.orelse)


def _defined(statement: ast.stmt) -> list[str]:
    """Names that a statement of a module binds, imports apart."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _imported(node: ast.Import | ast.ImportFrom, parent: tuple[str, ...]) -> dict[str, str]:
    """Name in the module -> dotted name that it stands for."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names}
    up = parent[: len(parent) - node.level + 1] if node.level else []
    base = ".".join([*up, *([node.module] if node.module else [])])
    return {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}


def _statements(statement: ast.stmt) -> Iterator[ast.AST]:
    """A statement and those in it, with the handlers and cases that hold some, level by level."""
    todo = deque([statement])
    while todo:
        node = todo.popleft()
        yield node
        todo.extend(child for child in ast.iter_child_nodes(node)
                    if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case))


def _chains(statement: ast.AST) -> Iterator[tuple[str, ...]]:
    """Dotted names in a statement, each as long as it goes; not those in a message."""
    todo = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node = node.exc.func
        elif isinstance(node, ast.Expr) and _is_log(node.value):
            continue
        chain = []
        while isinstance(node, ast.Attribute):
            chain.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield (node.id, *reversed(chain))
        else:
            todo.extend(ast.iter_child_nodes(node))


def _written(node: object) -> str:
    """A syntax tree as text, the same in every version of Python: without words, places and empty fields."""
    if isinstance(node, list):
        return "[" + ",".join(filter(None, map(_written, node))) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or _is_log(node.value)):
        return ""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return f"Raise({_written(node.exc.func)})"
    fields = [(name, value) for name, value in ast.iter_fields(node)
              if name not in ("ctx", "kind", "type_comment", "type_ignores") and value is not None and value != []]
    return f"{type(node).__name__}({','.join(f'{name}={_written(value)}' for name, value in fields)})"


def _is_log(node: ast.expr) -> bool:
    """Whether an expression is a call such as `log.info(...)`."""
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name) and node.func.value.id == "log")
