"""The layout of the package: ten rooms in the order of the data, read from the imports of every file."""

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest

from hrsa.study import store
from hrsa.study.code_hash import PACKAGE

ROOMS = ("study", "texts", "similarity", "models", "training", "evaluation", "analysis", "verdict", "report",
         "workflow")
MOST = {"similarity": 16}  # modules of a folder, its face not counted; 12 elsewhere
LINES = 400  # of a file


def files(package=PACKAGE):
    return {".".join(("hrsa", *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__"): path
            for path in sorted(package.rglob("*.py"))}


def imports(package=PACKAGE):
    """{module: modules of the package that it imports}, also inside functions and for type checking."""
    known = files(package)
    found = {}
    for name, path in known.items():
        here = found.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                up = name.split(".")[: len(name.split(".")) - node.level + (path.name == "__init__.py")]
                base = ".".join([*(up if node.level else []), *([node.module] if node.module else [])])
                targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
            else:
                continue
            here |= {target for target in targets if target in known and target != name}
    return found


def room(module):
    return module.split(".")[1] if "." in module else None


def climbing(found):
    """Imports of a room that comes later, or of something that is in none."""
    return [f"{name} -> {target}" for name, targets in found.items() for target in targets if room(name)
            and (room(target) not in ROOMS or ROOMS.index(room(target)) > ROOMS.index(room(name)))]


def test_every_module_lies_in_a_room():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


def test_no_import_runs_back_up():
    assert climbing(imports()) == []


def test_no_circle_of_files():
    found = imports()
    faces = {name for name, path in files().items() if path.name == "__init__.py"}
    graph = {name: targets - faces for name, targets in found.items() if name not in faces}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_library_code_imports_modules_and_not_faces():
    faces = {name for name, path in files().items() if path.name == "__init__.py"}
    assert [f"{name} -> {target}" for name, targets in imports().items() for target in targets & faces
            if name not in faces] == []


def public(path):
    """Names without an underscore that a module defines, its logger aside."""
    return {name for statement in ast.parse(path.read_text(encoding="utf8")).body for name in bound(statement)
            if not name.startswith("_")} - {"log"}


def bound(statement):
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return set()


def test_a_public_name_means_one_thing():
    where = {}
    for module, path in files().items():
        for name in public(path):
            where.setdefault(name, []).append(module)
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


def test_no_folder_is_crowded_and_no_file_long():
    for folder in {path.parent for path in files().values()}:
        count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        assert count <= MOST.get(folder.name, 12), f"{folder.name}: {count} files"
    for name, path in files().items():
        assert len(path.read_text(encoding="utf8").splitlines()) <= LINES, name


def picture():
    """The rooms and what each imports from, as the Mermaid diagram of docs/architecture.md: steps that a longer way
    implies are left out."""
    uses = {name: set() for name in ROOMS}
    for name, targets in imports().items():
        uses.get(room(name), set()).update(room(target) for target in targets if room(target))
    edges = {(source, name) for name in ROOMS for source in uses[name] - {name}}
    reached = {name: set() for name in ROOMS}
    for name in ROOMS:
        reached[name] = {other for source, to in edges if to == name for other in {source} | reached[source]}
    lines = [f"    {source} --> {name}" for source in ROOMS for name in ROOMS if (source, name) in edges
             and not any((via, name) in edges and source in reached[via] for via in ROOMS)]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"])


def test_the_page_on_architecture_shows_the_imports_there_are():
    page = (store.ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
    assert picture() in page, f"expected this picture in docs/architecture.md:\n{picture()}"
    assert all(f"| `{name}` |" in page for name in ROOMS)


def test_the_walks_name_functions_that_are_there():
    page = (store.ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
    named = re.findall(r"`(\w+/[\w/]+\.py)`((?: `\w+`)+)", page)
    assert len(named) > 30
    for file, names in named:
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf8"))
        there = {name for statement in tree.body for name in bound(statement)}
        assert set(re.findall(r"\w+", names)) <= there, f"{file} has not all of {names}: correct docs/architecture.md"


def test_the_reader_of_imports_sees_those_inside_functions(tmp_path):
    package = tmp_path / "hrsa"
    for name, text in {"__init__": "", "study/__init__": "", "workflow/__init__": "", "workflow/graph": "X = 1\n",
                       "study/store": "def f():\n    from hrsa.workflow.graph import X\n    return X\n",
                       "study/other": "def f():\n    from ..workflow import graph\n    return graph\n"}.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert climbing(imports(package)) == ["hrsa.study.other -> hrsa.workflow.graph",
                                          "hrsa.study.store -> hrsa.workflow.graph"]
