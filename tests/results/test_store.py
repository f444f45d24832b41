import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.results.store import RunFolder, content_key


def test_records_survive_a_new_process(tmp_path):
    RunFolder(tmp_path / "run", "x", {"k": 1}).append("a", {"value": [1, 2], "text": "é\n"})
    again = RunFolder(tmp_path / "run", "x", {"k": 1})
    assert again.records == {"a": {"value": [1, 2], "text": "é\n"}}
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"x": {"k": 1}}


@given(cut=st.integers(1, 60))
def test_a_torn_last_line_costs_only_itself(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("run")
    store = RunFolder(folder, "x", {})
    store.append("a", {"value": "first"})
    whole = (folder / "records.jsonl").read_bytes()
    store.append("b", {"value": "second " * 10})
    data = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl").write_bytes(data[: max(len(whole), len(data) - cut)])
    again = RunFolder(folder, "x", {})
    assert again.records == {"a": {"value": "first"}}
    again.append("b", {"value": "again"})
    assert RunFolder(folder, "x", {}).records == {"a": {"value": "first"}, "b": {"value": "again"}}


def test_damage_inside_is_reported_with_its_line(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"key": "a"}\ngarbage\n{"key": "b"}\n')
    with pytest.raises(ValueError, match="line 2, is damaged"):
        RunFolder(tmp_path, "x", {})


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to the run folder"):
        RunFolder(tmp_path / "file", "x", {})


def test_two_verbs_share_a_folder_and_a_damaged_config_is_one_sentence(tmp_path):
    RunFolder(tmp_path, "detect", {"a": 1})
    RunFolder(tmp_path, "ablate", {"b": 2})
    assert json.loads((tmp_path / "config.json").read_text()) == {"detect": {"a": 1}, "ablate": {"b": 2}}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        RunFolder(tmp_path, "detect", {})


def test_keys_depend_on_every_part():
    base = ("trace", "model", 50, (1, 2, 3))
    keys = {content_key(*base), content_key("answer", *base[1:]), content_key("trace", "other", *base[2:]),
            content_key("trace", "model", 51, (1, 2, 3)), content_key("trace", "model", 50, (1, 2))}  # fmt: skip
    assert len(keys) == 5
    assert content_key(*base) == content_key(*base)
