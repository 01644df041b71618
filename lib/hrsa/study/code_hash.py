"""The code that can change a result, as a hash that goes into an artefact's key.

From a function, names are followed to the definitions that they stand for, through imports, to the end; what is not
reached does not count. A data file of a module's own name counts with every definition of it. Words do not count:
comments, docstrings, the messages of errors and of the log. A function that makes an artefact (by `store.make`) is not
entered from another one: whoever calls it takes the artefact, and its key stands for its code. Nor is `SILENT`: names,
places and progress.

Sources are read from disk at each call, so that a hash is never stale; what was on disk when this process started is
kept, so that `check_unchanged` can refuse to make an artefact by code that is no longer what its key names.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SILENT = frozenset(f"hrsa.study.{name}" for name in ("code_hash", "profile", "progress", "sections", "store"))
MAKE = ("hrsa.study.store", "make")
NOTEBOOK = "hrsa.notebook"  # the name under which a notebook's source is read
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
        for node in (node for statement in self.statements for node in ast.walk(statement)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= _imported(node, self.parent)
        return found


@dataclass(frozen=True)
class Module:
    """The definitions of one source file."""

    definitions: Mapping[str, Definition]
    imports: Mapping[str, str]
    loose: tuple[Definition, ...]  # statements that run at import and define nothing


def _texts() -> dict[str, str]:
    """The source of every module of the package and its data files, as they are on disk now, by name within it."""
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf8")
            for ending in ("py", "yaml") for path in sorted(PACKAGE.rglob(f"*.{ending}"))}


_AT_START = _texts()


def code_hash(*roots: Callable | type) -> str:
    """Sixteen hexadecimal digits for the code that these functions or classes of the package can run.

    ValueError when one of them is not a definition of the package.
    """
    return _hash([_node(root) for root in roots], _texts())


def check_unchanged(*roots: Callable | type) -> None:
    """RuntimeError when the code of these functions has changed on disk since this process started."""
    nodes = [_node(root) for root in roots]
    if _hash(nodes, _AT_START) != _hash(nodes, _texts()):
        named = ", ".join(f"{module}.{name}" for module, name in nodes)
        raise RuntimeError(f"expected the code that this process started with, got a file changed since that {named} "
                           "depends on: restart the kernel, or give the command again")


def notebook_hash(path: Path, stages: Iterable[Callable]) -> str:
    """Hash of a notebook's py:percent source and of the code it can run, artefacts included that it makes itself.

    `stages` are the functions whose artefacts other jobs have made before.
    """
    text = path.read_text(encoding="utf8")
    texts = _texts() | {"notebook.py": text}
    module = _module(NOTEBOOK, texts)
    links = {link for part in (*module.definitions.values(), *module.loose)
             for chain in part.names for link in _resolve(NOTEBOOK, part.imports, chain, texts) if link[0] != NOTEBOOK}
    return _digest([text, *_lines(_reached(links, texts, {_node(stage) for stage in stages}))])


def _hash(roots: list[Node], texts: Mapping[str, str]) -> str:
    return _digest(_lines(_reached(roots, texts)))


def _lines(found: Mapping[Node, str]) -> list[str]:
    return [f"{module}.{name} {text}" for (module, name), text in sorted(found.items())]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def reached(*roots: Callable | type) -> set[Node]:
    """The definitions that `code_hash` covers: (module, name)."""
    return set(_reached([_node(root) for root in roots], _texts()))


def _node(root: Callable | type) -> Node:
    """Where a function or class is defined."""
    node = root.__module__, root.__qualname__.partition(".")[0]
    if node[0].partition(".")[0] != "hrsa":
        raise ValueError(f"expected a function or class of hrsa, got {root!r}")
    return node


def _reached(roots: Iterable[Node], texts: Mapping[str, str], stages: set[Node] | None = None) -> dict[Node, str]:
    """Definitions reached from `roots`, with their text. Not entered: `stages`, or without them whatever makes an
    artefact."""
    todo, found = list(roots), {}
    first = set(todo)
    while todo:
        node = todo.pop()
        name, wanted = node
        if node in found or name in SILENT:
            continue
        module = _module(name, texts)
        if wanted not in module.definitions:
            raise ValueError(f"expected a definition {wanted!r} in {name}, got none there")
        definition = module.definitions[wanted]
        links = [link for chain in definition.names for link in _resolve(name, definition.imports, chain, texts)]
        ends = node in stages if stages is not None else MAKE in links and node not in first
        if ends:
            continue
        found[node] = definition.text
        if data := texts.get(str(_file(name.split("."), texts)).removesuffix("py") + "yaml"):
            found[name, "data"] = data
        todo += links
        for place, loose in enumerate(module.loose):
            if (name, f"statement {place}") not in found:
                found[name, f"statement {place}"] = loose.text
                todo += [link for chain in loose.names for link in _resolve(name, loose.imports, chain, texts)]
    return found


def _resolve(module: str, inside: Mapping[str, str], chain: tuple[str, ...],
             texts: Mapping[str, str]) -> Iterator[Node]:
    """The definitions that a dotted name in `module` stands for; none for names of other packages."""
    known = _module(module, texts)
    head, rest = chain[0], chain[1:]
    if head in inside or head in known.imports:
        yield from _follow((inside.get(head) or known.imports[head]).split("."), rest, texts)
    elif head in known.definitions:
        yield module, head


def _follow(target: list[str], rest: tuple[str, ...], texts: Mapping[str, str]) -> Iterator[Node]:
    """What `target` (a dotted name as it is imported) and then the attributes `rest` stand for."""
    parts = [*target, *rest]
    depth = next((n for n in range(len(parts), 0, -1) if _file(parts[:n], texts)), 0)
    if not depth:
        return
    module, left = ".".join(parts[:depth]), tuple(parts[depth:])
    known = _module(module, texts)
    if left:
        yield from _resolve(module, {}, left, texts)
    else:  # a module handed on as a value: anything in it may be used
        for name in (*known.definitions, *known.imports):
            if name != "annotations":
                yield from _resolve(module, {}, (name,), texts)


def _file(parts: list[str], texts: Mapping[str, str]) -> str | None:
    """The source file of a dotted name, or None when it is not a module of the package."""
    if parts[0] != "hrsa":
        return None
    stem = "/".join(parts[1:])
    return next((name for name in (f"{stem}.py", f"{stem}/__init__.py".lstrip("/")) if name in texts), None)


def _module(name: str, texts: Mapping[str, str]) -> Module:
    file = _file(name.split("."), texts)
    if file is None:
        raise ValueError(f"expected a module of hrsa, got {name!r}")
    return _parsed(name, file.endswith("__init__.py"), texts[file])


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


def _chains(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Dotted names in a statement, each as long as it goes; not those in a message."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        node = node.exc.func
    elif isinstance(node, ast.Expr) and _is_log(node.value):
        return
    chain, inner = [], node
    while isinstance(inner, ast.Attribute):
        chain.append(inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield (inner.id, *reversed(chain))
        return
    for child in ast.iter_child_nodes(inner if chain else node):
        yield from _chains(child)


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
