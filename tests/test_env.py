import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from test_rooms import files

from hrsa.study import store

LOCK = dict(
    re.fullmatch(r"([A-Za-z0-9._-]+)==([^ ]+)", line).groups()
    for line in (store.ROOT / "requirements.lock").read_text(encoding="utf8").splitlines()
    if line and not line.startswith("#")
)
PROJECT = tomllib.loads((store.ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]


def _name(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


PINNED = {_name(name): version for name, version in LOCK.items()}


def test_the_metrics_and_the_verdict_need_the_base_dependencies_and_no_others():
    base, known = {_name(r) for r in PROJECT["dependencies"]}, metadata.packages_distributions()
    needed = third_party("hrsa.similarity", "hrsa.verdict", "hrsa.workflow.commands")
    assert {"numpy", "scipy", "pyarrow", "typer"} <= needed
    assert {name for name in needed if not base & {_name(found) for found in known[name]}} == set()
    assert not base & {_name(r) for extra in ("train", "book") for r in PROJECT["optional-dependencies"][extra]}


def third_party(*roots):
    """Packages of others that importing these modules, and all below them, imports; by their import names."""
    modules, left, found = files(), list(roots), set()
    left += [name for name in modules if name.startswith(tuple(f"{root}." for root in roots))]
    seen = set()
    while left:
        name = left.pop()
        if name in seen or name not in modules:
            continue
        seen.add(name)
        for target in imported_at_once(ast.parse(modules[name].read_text(encoding="utf8"))):
            parts = target.split(".")
            if parts[0] == "hrsa":
                left += [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
            elif parts[0] not in sys.stdlib_module_names:
                found.add(parts[0])
    return found


def imported_at_once(tree):
    """Dotted names that a module imports when it is imported: not inside functions, nor for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imported_at_once(ast.Module(node.orelse, []))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported_at_once(node)


def test_the_reader_of_imports_leaves_out_what_waits_for_a_call():
    source = ("import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\nelse:\n    import f\ntry:\n    import g\n"
              "finally:\n    pass\ndef h():\n    import i\n")
    assert list(imported_at_once(ast.parse(source))) == ["a.b", "c.d", "f", "g"]


def test_the_lock_pins_every_direct_dependency_and_runs_here():
    direct = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    assert {_name(r) for r in direct} - {PROJECT["name"]} <= set(PINNED)
    installed = {name: metadata.version(name).split("+")[0] for name in PINNED}
    assert installed == PINNED


def test_the_lock_is_closed_under_requirements_and_names_no_build():
    assert not [version for version in PINNED.values() if "+" in version]
    missing = set()
    for name in PINNED:
        for requirement in metadata.requires(name) or []:
            text, _, marker = requirement.partition(";")
            if not marker.strip() and _name(text) not in PINNED:
                missing.add((name, text))
    assert not missing


def test_the_lock_is_made_from_every_extra():
    asked = re.search(r"install --quiet -e \.\[([a-z,]+)\]", (store.ROOT / "Makefile").read_text(encoding="utf8"))[1]
    assert set(asked.split(",")) == set(PROJECT["optional-dependencies"])


def test_conda_users_get_the_lock():
    environment = yaml.safe_load((store.ROOT / "environment.yml").read_text(encoding="utf8"))
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert python.removeprefix("python").startswith(PROJECT["requires-python"])


def test_ci_runs_exactly_make_test():
    lines = (store.ROOT / ".ci" / "run").read_text(encoding="utf8").splitlines()
    assert [line for line in lines if line and not line.startswith(("#", "set ", "cd "))] == ["make test"]


@pytest.mark.parametrize(("configured", "installer"), [("", "uv pip"), ("global.find-links='x'", "-m pip")])
def test_uv_installs_where_it_is_there_and_pip_is_not_configured_otherwise(tmp_path, configured, installer):
    for name, said in (("uv", ""), ("python", configured)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho \"{said}\"\n")
        (tmp_path / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", f"PYTHON={tmp_path / 'python'}", f"VENV={tmp_path / 'venv'}", "setup"]
    for path, wanted in ((f"{tmp_path}:{os.defpath}", installer), (os.defpath, "-m pip")):
        done = subprocess.run(command, cwd=store.ROOT, env=clean | {"PATH": path}, capture_output=True, text=True,
                              check=True)
        used = re.findall(r"(uv pip|-m pip) install (.*)", done.stdout)
        assert [how for how, _ in used] == [wanted] * 3
        assert ["requirements.lock" in used[0][1], "-e ." in used[2][1]] == [True, True]
