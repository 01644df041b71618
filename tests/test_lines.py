import json

import pytest

from hrsa.study.profile import load_profile
from hrsa.texts import lines, own_probes, training_sources

PLAIN = {"instruction": "Find.", "query": "q", "positive": "p"}


def rows_of(name):
    profile = load_profile("smoke")
    suite = profile.suite.model_copy(update={"train": (str(name),)})
    return training_sources.named_sources(profile.model_copy(update={"suite": suite}))[0].read()


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1e"])
def test_only_line_feed_and_carriage_return_end_a_line(tmp_path, sign):
    texts = [f"one{sign}text", "two", "three", "four"]
    file = tmp_path / "own.txt"
    file.write_bytes("\r\n".join(texts[:3]).encode() + b"\r" + texts[3].encode() + b"\n\n")
    assert [line for _, line in lines.read_lines(file)] == texts
    assert sorted(own_probes.read_texts(file)["text"]) == sorted(texts)
    table = tmp_path / "own.jsonl"
    table.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=sign < " ") for text in texts), encoding="utf8")
    assert sorted(own_probes.read_texts(table)["text"]) == sorted(texts)


def test_byte_order_marks_and_blank_lines_are_no_part_of_a_text(tmp_path):
    text, table = tmp_path / "own.txt", tmp_path / "own.jsonl"
    text.write_text("one\n \ntwo\n", encoding="utf-8-sig")
    assert sorted(own_probes.read_texts(text)["text"]) == ["one", "two"]
    table.write_text('{"text": "one"}\n\n{"text": "two"}\n', encoding="utf-8-sig")
    assert sorted(own_probes.read_texts(table)["text"]) == ["one", "two"]
    table.write_text(f"{json.dumps(PLAIN)}\n\n{json.dumps(PLAIN)}\n", encoding="utf-8-sig")
    assert len(rows_of(table)) == 2


@pytest.mark.parametrize("content", ["caf\xe9".encode("latin-1"), "cafe".encode("utf-16"), "cafe".encode("utf-16-le"),
                                     b"\xed\xa0\x80", b"a\0b", b"\x80"])
@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_what_is_not_utf8_is_named_with_file_and_line(tmp_path, content, ending):
    file = tmp_path / f"own.{ending}"
    good = b"" if content[:2] == b"\xff\xfe" else json.dumps(PLAIN | {"text": "x"}).encode() + b"\n"
    file.write_bytes(good + content)
    said = rf"own\.{ending}, line {1 + bool(good)}: expected .*UTF-8, got .*: save the file as UTF-8"
    with pytest.raises(ValueError, match=said):
        own_probes.read_texts(file)
    if ending == "jsonl":
        with pytest.raises(ValueError, match=said):
            rows_of(file)


@pytest.mark.parametrize("row", ["3", "[]", '"text"', "null", '{"text": ', '{"text": "a", "text": "b"}',
                                 '{"text": "\\ud800"}', '{"text": "a\\u0000"}', "[" * 100_000])
def test_a_line_that_is_no_object_is_named(tmp_path, row):
    file = tmp_path / "own.jsonl"
    file.write_text(f"{json.dumps(PLAIN | {'text': 'x'})}\n\n{row}\n", encoding="utf8")
    for read in (own_probes.read_texts, rows_of):
        with pytest.raises(ValueError, match=r"own\.jsonl, line 3: expected .*: correct the line"):
            read(file)


@pytest.mark.parametrize(("rows", "said"), [
    ([{"id": 1, "text": "a"}, {"id": "1", "text": "b"}], "every id once.*'1' twice"),
    ([{"id": 1, "text": "a"}, {"text": "b"}], "column 'id'"),
    ([{"text": "a", "label": "x", "topic": "y"}, {"text": "b"}], "got both"),
    ([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], "two labels or more"),
    ([{"text": "a", "target": "high"}, {"text": "b"}], "finite numbers in column 'target'"),
    ([{"text": "a"}, {"text": None}], "got nan in row 1"),
    ([{"text": "a"}, {"text": " "}], "got ' ' in row 1"),
    ([{"body": "a"}], "column `text`"),
])
def test_a_probe_table_that_reads_two_ways_is_refused(tmp_path, rows, said):
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    with pytest.raises(ValueError, match=said):
        own_probes.read_texts(file)


def test_labels_are_texts_or_missing(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [{"text": "a", "label": 1, "difficulty": 2}, {"text": "b", "label": "x"}, {"text": "c", "difficulty": "z"}]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    table = own_probes.read_texts(file).sort_values("text", ignore_index=True)
    assert table["topic"].isna().tolist() == [False, False, True] and table["topic"][:2].tolist() == ["1", "x"]
    assert table["difficulty"].tolist() == ["2", "", "z"]


@pytest.mark.parametrize("row", [
    {"query": "ab", "pos": ["x"]}, {"query": {"i": 1, "q": 2}, "pos": ["x"]}, {"query": ["a", "b", "c"], "pos": ["x"]},
    {"query": ["a", "b"], "pos": "x"}, {"query": ["a", "b"], "pos": {"x": 1}},
    {"query": ["a", "b"], "pos": ["x"], "neg": "y"}, {"query": ["a", "b"], "pos": ["x"], "positive": "z"},
])
def test_a_training_row_of_another_form_is_refused(tmp_path, row):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(row), encoding="utf8")
    with pytest.raises(ValueError, match=r"own\.jsonl, line 1: expected .*correct the line"):
        rows_of(file)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "data/../../x.jsonl", ".."])
def test_a_training_path_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="climbs out of it"):
        rows_of(name)
