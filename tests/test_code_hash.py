"""The hash of code: words do not count, what is reached does, and an artefact's key stands for what made it."""

import ast
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from hrsa.analysis.ablations import make_realignment
from hrsa.analysis.dynamics import make_dynamics
from hrsa.analysis.pairs import make_comparison
from hrsa.analysis.recordings import make_recording
from hrsa.evaluation.evaluate import evaluate_model
from hrsa.models.resolve import make_merged
from hrsa.models.zoo.make import code_of
from hrsa.study import code_hash as code
from hrsa.study import store
from hrsa.study.code_hash import check_unchanged, code_hash, notebook_hash
from hrsa.study.profile import load_profile
from hrsa.texts.hard_negatives import make_triples
from hrsa.training.train import train_embedder

STAGES = {"mine": (make_triples,), "train": (train_embedder,), "evaluate": (evaluate_model,),
          "record": (make_recording,), "compare": (make_comparison,), "dynamics": (make_dynamics,),
          "ablations": (make_realignment,), "merge": (make_merged,)}
SMOKE = load_profile("smoke")
ARMS = {f"arm {b.name}": code_of(SMOKE, b) for b in SMOKE.backbones}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose files may be edited."""
    folder = tmp_path / "hrsa"
    shutil.copytree(code.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", folder)
    return folder


def keys():
    return {name: code_hash(*roots) for name, roots in (STAGES | ARMS).items()}


def moved(before):
    return {name for name, value in keys().items() if value != before[name]}


def edit(path: Path, old: str, new: str):
    text = path.read_text(encoding="utf8")
    assert old in text, f"{old!r} is not in {path.name}: correct the test"
    path.write_text(text.replace(old, new, 1), encoding="utf8")


def file_of(package: Path, function) -> Path:
    """The copy of the file that a function is written in."""
    return package.joinpath(*function.__module__.split(".")[1:]).with_suffix(".py")


def test_words_move_no_key(package):
    before = keys()
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf8")
        module = ast.parse(text)
        documented = [n for n in ast.walk(module) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Module)
                      and ast.get_docstring(n)]
        lines = text.splitlines()
        for node in documented:
            at = node.body[0].lineno - 1
            lines[at] = lines[at].replace('"""', '"""Said otherwise. ', 1)
        path.write_text("# a comment\n" + "\n".join(lines) + "\n# another\n", encoding="utf8")
        assert ast.dump(ast.parse(path.read_text(encoding="utf8"))) != ast.dump(module)
    assert moved(before) == set()


def test_sentences_plots_and_the_graph_move_no_key(package):
    before = keys()
    for name in ("report/prose/verdict", "report/prose/similarity", "workflow/graph", "workflow/engine",
                 "report/plots/style", "report/book/report", "report/prose/texts", "verdict/claims"):
        path = package / f"{name}.py"
        path.write_text(path.read_text(encoding="utf8") + "\nADDED = 1\n", encoding="utf8")
        for node in ast.parse(path.read_text(encoding="utf8")).body:
            if isinstance(node, ast.FunctionDef):
                edit(path, f"def {node.name}(", f"def {node.name}_(")
    assert moved(before) == set()


def test_messages_of_errors_and_of_the_log_move_no_key(package):
    before = keys()
    edit(package / "training/batches.py", "expected at least batch_size=", "wanted at least batch_size=")
    edit(package / "training/trainer.py", "%s goes on from %s", "%s is taken up at %s")
    assert moved(before) == set()


@pytest.mark.parametrize(("file", "old", "new", "expected"), [
    ("training/infonce.py", "temperature", "temperature_", {"train"}),
    ("training/batches.py", "chance.permutation(rows)", "chance.permutation(rows[::-1])", {"train"}),
    ("similarity/cka.py", "out[fine] = ", "out[fine] = 1 * ", {"compare", "dynamics", "ablations"}),
    ("similarity/correlation.py", "np.clip(out, -1.0", "np.clip(out, -2.0", {"compare", "dynamics", "ablations"}),
    ("analysis/hidden_states.py", "truncation=True, max_length=max_length",
     "truncation=True, max_length=max_length - 1", {"record"}),
    ("evaluation/encoder.py", "convert_to_numpy=True", "convert_to_numpy=False", {"evaluate"}),
    ("texts/hard_negatives.py", "QUANTILES = (0.05", "QUANTILES = (0.06", {"mine"}),
    ("models/embedder.py", "Strip(left=False", "Strip(left=True", {"train", "evaluate", "record"}),
    ("models/zoo/grpo.py", "_WARMUP_STEPS = 5", "_WARMUP_STEPS = 6", {"arm rlvr"}),
    ("models/zoo/sft.py", "_WARMUP_STEPS = 3", "_WARMUP_STEPS = 4", {"arm sft"}),
])
def test_exactly_what_depends_on_an_edit_moves(package, file, old, new, expected):
    before = keys()
    edit(package / file, old, new)
    assert moved(before) == expected


def test_a_hash_follows_names_through_imports_and_reexports(tmp_path, monkeypatch):
    package = tmp_path / "hrsa"
    package.mkdir()
    files = {"__init__.py": "", "a.py": "from hrsa import face\nfrom hrsa.study.store import make\n"
             "def f():\n    from hrsa import late\n    return face.g() + late.VALUE\n"
             "def stage():\n    made()\n    make()\n"
             "def made():\n    return 1\n"
             "def caller():\n    return stage()\n",
             "face.py": "from hrsa.deep import g, unused\n", "deep.py": "import re\nX = 1\ndef g():\n    return X\n"
             "def unused():\n    return 2\n", "late.py": "VALUE = 1\nVALUE += 1\nprint(len('loose'))\n",
             "study/store.py": "def make():\n    pass\n"}
    for name, text in files.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(code, "PACKAGE", package)

    def hashes():
        return {name: code._sources().hash((("hrsa.a", name),)) for name in ("f", "stage", "caller")}

    def moved_by(name, old, new):
        before = hashes()
        edit(package / name, old, new)
        return {key for key, value in hashes().items() if value != before[key]}

    assert moved_by("deep.py", "X = 1", "X = 2") == {"f"}
    assert moved_by("deep.py", "return 2", "return 3") == set()
    assert moved_by("late.py", "VALUE += 1", "VALUE += 2") == {"f"}
    assert moved_by("late.py", "'loose'", "'looser'") == {"f"}
    assert moved_by("a.py", "return 1", "return 2") == {"stage"}, "the artefact's key stands for it in the caller"
    with pytest.raises(ValueError, match="expected a function or class of hrsa"):
        code_hash(len)
    assert code_hash("hrsa.a.f") == hashes()["f"]
    with pytest.raises(ValueError, match=r"expected a definition 'none' in hrsa\.a, got none there"):
        code_hash("hrsa.a.none")


def test_a_kernel_that_lives_on_sees_edits_and_refuses_to_make_with_old_code(package, tmp_path):
    before = code_hash(train_embedder)
    check_unchanged(train_embedder)
    edit(package / "training/infonce.py", "temperature", "temperature_")
    assert code_hash(train_embedder) != before
    check_unchanged(make_triples)
    with pytest.raises(RuntimeError, match=r"hrsa\.training\.train\.train_embedder depends on: restart the kernel"):
        store.make(tmp_path / "made", lambda folder: None, (train_embedder,))


def test_a_hash_is_found_once_and_kept_for_other_processes(package, tmp_path, monkeypatch):
    notebook = tmp_path / "chapter.py"
    notebook.write_text("# %%\nfrom hrsa.analysis import pairs\npairs.make_comparison\n")
    asked = []
    follow = code._Sources.reached
    monkeypatch.setattr(code._Sources, "reached", lambda *given: asked.append(given) or follow(*given))

    def found():
        """The hashes of a new process, and how often it has followed names."""
        code._known.cache_clear()
        asked.clear()
        return code_hash(make_triples), notebook_hash(notebook, (make_recording,)), len(asked)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first, second = found(), found()
    assert first == second and first[2] == 2 and not list(package.rglob("*.json"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert found() == first and found() == (*first[:2], 0)
    kept, = package.rglob("*.json")
    whole = kept.read_text()
    for damaged in (whole.replace(first[0], first[0][::-1]), whole[:40], "[]", "null", '{"sum": 1, "hashes": [1]}'):
        kept.write_text(damaged)
        assert found() == first, damaged
        assert kept.read_text() == whole
    assert notebook_hash(notebook, ()) != first[1], "other stages, another question"
    edit(package / "texts/hard_negatives.py", "QUANTILES = (0.05", "QUANTILES = (0.06")
    assert code_hash(make_triples) != first[0]
    edit(package / "texts/hard_negatives.py", "QUANTILES = (0.06", "QUANTILES = (0.05")
    shutil.rmtree(kept.parent)
    kept.parent.write_text("a file where the folder should be")
    assert found() == first


def test_a_file_changed_just_now_is_read_again_although_its_time_is_the_same(package):
    path = package / "texts/hard_negatives.py"
    before, seen = code_hash(make_triples), path.stat()
    edit(path, "QUANTILES = (0.05", "QUANTILES = (0.06")
    os.utime(path, ns=(seen.st_atime_ns, time.time_ns()))
    changed, stamp = code_hash(make_triples), path.stat().st_mtime_ns
    edit(path, "QUANTILES = (0.06", "QUANTILES = (0.07")
    os.utime(path, ns=(stamp, stamp))
    assert len({before, changed, code_hash(make_triples)}) == 3


def test_a_notebook_counts_what_it_makes_itself(package, tmp_path):
    notebook = tmp_path / "chapter.py"
    notebook.write_text("# %%\nfrom hrsa.analysis import pairs\nfrom hrsa.study.profile import load_profile\n\n# %%\n"
                        "pairs.make_comparison(load_profile('smoke'), 'base-vs-rlvr', 'cka')\n")
    before = notebook_hash(notebook, (train_embedder, make_recording))
    edit(package / "training/infonce.py", "temperature", "temperature_")
    assert notebook_hash(notebook, (train_embedder, make_recording)) == before
    edit(package / "similarity/cka.py", "out[fine] = ", "out[fine] = 1 * ")
    assert notebook_hash(notebook, (train_embedder, make_recording)) != before


def test_a_data_file_counts_with_its_module(package, tmp_path):
    notebook = tmp_path / "chapter.py"
    notebook.write_text("# %%\nfrom hrsa.verdict import published\n\n# %%\npublished.score_cells()\n")
    before, others = notebook_hash(notebook, ()), keys()
    edit(package / "verdict/published.yaml", "53.50", "53.51")
    assert notebook_hash(notebook, ()) != before and moved(others) == set()


@pytest.fixture
def called():
    """Definitions of the package that are called while the test runs: {(module, name)}."""
    seen = set()
    root = str(code.PACKAGE)

    def look(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(root):
            module = frame.f_globals["__name__"]
            if "<" not in frame.f_code.co_qualname.partition(".")[0]:
                seen.add((module, frame.f_code.co_qualname.partition(".")[0]))

    threading.setprofile(look)
    sys.setprofile(look)
    yield seen
    sys.setprofile(None)
    threading.setprofile(None)


def uncovered(called, *roots):
    return {node for node in called - code.reached(*roots) if node[0] not in code.SILENT}


def test_what_a_comparison_runs_is_covered(called, rng):
    import numpy as np

    from hrsa.similarity import compare_layers

    x, y = rng.normal(size=(2, 60, 6))
    called.clear()
    compare_layers([x], [y], ["correlation", "cka", "mean_cosine", "knn"], ks=(5,), rng=np.random.default_rng(0),
                   texts=np.repeat(range(12), 5), resamples=3, classes=np.repeat(range(6), 10), permutations=2)
    assert called and uncovered(called, compare_layers) == set()
