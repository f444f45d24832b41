"""The user's files: what is in them is read as it stands, and what is wrong with them is said with its place."""

import json

import pytest

from rhlens.tasks.cot import read_problems
from rhlens.tasks.facts import read_facts
from rhlens.tasks.files import answerable, records
from rhlens.tasks.qa import read_squad


def test_lines_and_lists_hold_the_same_entries_each_with_its_place(tmp_path):
    entries = [{"a": "first\u2028line"}, {"a": "\x85"}, {"a": "с"}]
    lines = "\n\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    (tmp_path / "lines.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())
    (tmp_path / "list.json").write_text(f"\n{json.dumps(entries, indent=1)}")
    found = dict(records(tmp_path / "lines.jsonl"))
    assert list(found.values()) == entries, "only line feeds end a line"
    assert [where.rpartition(", ")[2] for where in found] == ["line 1", "line 3", "line 5"]
    listed = dict(records(tmp_path / "list.json"))
    assert list(listed.values()) == entries
    assert [where.rpartition(", ")[2] for where in listed] == ["entry 1", "entry 2", "entry 3"]


@pytest.mark.parametrize("read", [read_facts, read_problems, read_squad])
def test_files_that_cannot_be_read_are_named(read, tmp_path):
    path = tmp_path / "mine.json"
    with pytest.raises(ValueError, match=r"mine\.json does not exist: give a file of questions"):
        read(path)
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)
    path.write_bytes('{"prompt": "Où?", "answer": "là"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="give a UTF-8 file"):
        read(path)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match=r"mine\.json is empty"):
        read(path)
    path.write_text('{"prompt": "a", ')
    with pytest.raises(ValueError, match=r"mine\.json.* is not JSON"):
        read(path)


def test_what_has_no_answer_is_counted_once(capsys):
    assert answerable("f", [1, 0]) == [1, 0]
    assert capsys.readouterr().err == ""
    assert answerable("f", [None, 1, None]) == [1]
    assert capsys.readouterr().err == "f: 2 of 3 questions left out, since they have no answer\n"
    for nothing in ([None], []):
        with pytest.raises(ValueError, match="f holds no question that has an answer"):
            answerable("f", nothing)
