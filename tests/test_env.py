import re
import tomllib
from importlib import metadata

import yaml

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


def test_the_lock_pins_every_direct_dependency_and_runs_here():
    direct = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    assert {_name(r) for r in direct} <= set(PINNED)
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


def test_conda_users_get_the_lock():
    environment = yaml.safe_load((store.ROOT / "environment.yml").read_text(encoding="utf8"))
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert python.removeprefix("python").startswith(PROJECT["requires-python"])


def test_ci_runs_exactly_make_test():
    lines = (store.ROOT / ".ci" / "run").read_text(encoding="utf8").splitlines()
    assert [line for line in lines if line and not line.startswith(("#", "set ", "cd "))] == ["make test"]
