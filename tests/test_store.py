import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from hrsa.study import store


def test_key_depends_on_every_part_and_not_on_order():
    assert store.key(a=1, b=[2]) == store.key(b=[2], a=1)
    assert store.key(a=1) != store.key(a=2)
    assert len(store.key(a=1)) == 12


def test_make_builds_once_and_records_where_it_came_from(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        (folder / "x.txt").write_text("1")

    target = tmp_path / "stage" / "name-0"
    store.scratch(target).mkdir(parents=True)
    for _ in range(2):
        assert store.make(target, build, (store.make,), seed=3) == target
    assert len(calls) == 1
    record = json.loads((target / "provenance.json").read_text())
    assert record["seed"] == 3 and record["versions"]["torch"] and record["seconds"] >= 0
    assert not store.scratch(target).exists()


def test_a_failed_build_leaves_nothing_and_keeps_its_scratch(tmp_path):
    target = tmp_path / "name-0"
    store.scratch(target).mkdir()

    def build(folder):
        (folder / "half").write_text("…")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.make(target, build, (store.make,))
    assert [p.name for p in tmp_path.iterdir()] == [store.scratch(target).name]


def test_a_killed_writer_never_leaves_a_half_written_file_under_the_name(tmp_path):
    target = tmp_path / "table.parquet"
    code = (
        "import time, sys; from pathlib import Path; from hrsa.study import store\n"
        f"with store.atomic(Path({str(target)!r})) as t:\n"
        "    t.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline().strip() == "writing"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not target.exists()


def start(code):
    """A process that runs `code` and has printed its first line."""
    imports = "import os, time; from pathlib import Path; from hrsa.study import store"
    child = subprocess.Popen([sys.executable, "-c", f"{imports}\n{code}"], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    return child


def end(child):
    with child:
        child.kill()


def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(tmp_path):
    writing = "with store.atomic(Path({!r})) as t:\n    t.mkdir(); (t / 'x').write_text('1'); print(1, flush=True); " \
        "time.sleep(60)"
    dead, living = (start(writing.format(str(tmp_path / "stage" / name))) for name in ("dead", "living"))
    try:
        end(dead)
        left = {file.name.split(".")[1]: file for file in (tmp_path / "stage").iterdir()}
        assert set(left) == {"dead", "living"}
        other = left["dead"].with_name(".other.00000000-1.partial")  # of another machine that writes here
        users = left["dead"].with_name(".notes.partial")
        for file in (other, users):
            file.write_text("kept")
        assert store.sweep(tmp_path / "stage", deep=False) == [left["dead"]] and store.sweep(tmp_path) == []
        assert set((tmp_path / "stage").iterdir()) == {left["living"], other, users}
    finally:
        end(living)
    assert store.make(tmp_path / "stage" / "next", lambda folder: None, (store.make,)).is_dir()
    assert {file.name for file in (tmp_path / "stage").iterdir()} == {"next", other.name, users.name}
    assert store.sweep(tmp_path / "nowhere") == []


def test_a_number_that_is_now_another_processs_protects_nothing(tmp_path):
    with store.atomic(tmp_path / "x") as temporary:
        temporary.write_text("1")
        assert store.sweep(tmp_path) == []
        os.utime(temporary, (1, 1))  # older than this process, which has its number
        assert store.sweep(tmp_path) == [temporary]
        temporary.write_text("1")


def test_a_process_killed_between_two_renames_loses_nothing(tmp_path):
    target = tmp_path / "results"
    target.mkdir()
    (target / "record.json").write_text('{"written": "", "versions": {}}')
    child = start("real = os.replace\ndef slow(a, b):\n    real(a, b); print(1, flush=True); time.sleep(60)\n"
                  f"os.replace = slow\nwith store.atomic(Path({str(target)!r})) as t: t.mkdir()")
    end(child)
    assert not target.exists() and len(store.sweep(tmp_path)) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["results"] and (target / "record.json").is_file()


def test_only_what_this_project_wrote_is_replaced(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    (mine / "letters").mkdir(parents=True)
    for name, text in (("provenance.json", "{}"), ("record.json", "[1]"), ("card.json", "not JSON")):
        (mine / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    for path in (mine, tmp_path):
        with pytest.raises(ValueError, match=r"what this project wrote, .*got a folder of another"), store.atomic(path):
            raise AssertionError("expected a refusal before the work")
        with pytest.raises(ValueError, match="move the folder away"):
            store.write_json(path, 1)
    with pytest.raises(ValueError, match="move the folder away"):
        store.make(tmp_path, lambda folder: None, (store.make,))
    assert sorted(tmp_path.rglob("*")) == before
    made = store.make(tmp_path / "made-0", lambda folder: None, (store.make,))
    (tmp_path / "empty").mkdir()
    (mine / "card.json").write_text('{"made": {"written": "", "versions": {}}}')
    for path in (made, tmp_path / "empty", mine):
        with pytest.raises(ValueError, match="expected a file, or nothing, in"):
            store.write_json(path, 1)
        with store.atomic(path) as temporary:
            temporary.mkdir()
            (temporary / "new").touch()
        assert [file.name for file in path.iterdir()] == ["new"]
    monkeypatch.setattr(store, "RUNS", tmp_path)
    with store.atomic(tmp_path / "mine") as temporary:  # part of data/runs: half of an artefact, say
        temporary.mkdir()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "made-0", "mine"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    kept = store.make(tmp_path / "kept-0", lambda folder: None, (store.make,))
    (tmp_path / "link").symlink_to(kept)
    with store.atomic(tmp_path / "link") as temporary:
        temporary.mkdir()
    assert (kept / "provenance.json").is_file() and not (tmp_path / "link").is_symlink()


def test_tables_and_json_round_trip_and_say_what_is_wrong(tmp_path, rng):
    table = pd.DataFrame({"a": rng.normal(size=5), "b": list("vwxyz")})
    store.write_table(tmp_path / "t.parquet", table)
    pd.testing.assert_frame_equal(store.read_table(tmp_path / "t.parquet", ["a"]), table)
    with pytest.raises(ValueError, match=r"expected columns .*'c'.*got .*'a', 'b'"):
        store.read_table(tmp_path / "t.parquet", ["a", "c"])
    (tmp_path / "t.parquet").write_bytes(b"PAR1half")
    with pytest.raises(ValueError, match="delete it and run the stage again"):
        store.read_table(tmp_path / "t.parquet")
    (tmp_path / "x.json").write_text('{"a":')
    with pytest.raises(ValueError, match="expected JSON"):
        store.read_json(tmp_path / "x.json")
    with pytest.raises(ValueError, match="JSON"):
        store.write_json(tmp_path / "y.json", {"a": float("nan")})
    assert not (tmp_path / "y.json").exists()


def test_progress_writes_its_state_for_the_runner(tmp_path, monkeypatch):
    from hrsa.study.progress import FILE_VARIABLE, progress
    from hrsa.workflow.engine import progress_line

    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "job.json"))
    with progress(4, "training", "base-s0") as bar:
        bar.update(2)
    state = json.loads((tmp_path / "job.json").read_text())
    assert (state["n"], state["total"]) == (2, 4)
    said = progress_line(state | {"start": time.time() - 60}, time.time())
    assert said.startswith("training · base-s0  2/4 step  50 %  1:0")


def test_a_large_file_is_read_once_and_again_when_it_changes(tmp_path, rng, monkeypatch):
    file, read = tmp_path / "weights", []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda handle, name: read.append(handle.name) or real(handle, name))
    content = rng.bytes(2**20 + 5)
    file.write_bytes(content)
    assert store.file_hash(file) == store.file_hash(file) == hashlib.sha256(content).hexdigest() and len(read) == 1
    file.write_bytes(content[::-1])
    os.utime(file, ns=(1, 1))
    assert store.file_hash(file) == hashlib.sha256(content[::-1]).hexdigest() and len(read) == 2
    (tmp_path / "small").write_bytes(b"x")
    assert store.file_hash(tmp_path / "small") == store.file_hash(tmp_path / "small") and len(read) == 4
