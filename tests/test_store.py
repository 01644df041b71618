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
