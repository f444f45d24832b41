"""Run folders: nothing finished is lost, nothing unfinished or changed is read, and many may write at once."""

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from rhlens.results import store as store_module
from rhlens.results.store import RunFolder, _sealed, content_key

RECORDS = {"a": {"value": [1, 2.5], "text": "é\n語"}, "b": {"value": None}, "c": {"text": "end 語"}}


def kept(folder):
    """What somebody who comes later finds."""
    return RunFolder(folder, "x", {}).records


def opened(folder):
    """The same, or nothing and the sentence that says why."""
    try:
        return kept(folder), ""
    except ValueError as error:
        return {}, str(error)


@pytest.fixture
def folder(tmp_path):
    """A run folder with `RECORDS` in it."""
    store = RunFolder(tmp_path / "run", "x", {"k": 1})
    for key, record in RECORDS.items():
        store.append(key, record)
    return tmp_path / "run"


def test_records_survive_a_new_process(folder):
    again = RunFolder(folder, "x", {"k": 1})
    assert again.records == RECORDS
    assert list(again.records) == list(RECORDS)
    assert json.loads((folder / "config.json").read_text()) == {"x": {"k": 1}}


def test_every_line_is_json_and_what_was_appended_is_what_will_be_read(tmp_path):
    record = RunFolder(tmp_path, "x", {}).append("a", {"pair": (1, 0.1 + 0.2), 3: "text"})
    assert record == {"pair": [1, 0.1 + 0.2], "3": "text"} == kept(tmp_path)["a"]
    line = json.loads((tmp_path / "records.jsonl").read_text())
    assert {"key": "a", **record} == {name: value for name, value in line.items() if name != "sha"}


def test_a_last_line_torn_at_any_byte_costs_only_itself(folder):
    data = (folder / "records.jsonl").read_bytes()
    start = data[:-1].rfind(b"\n") + 1
    assert b"\xaa" in data[start:], "a character of several bytes is torn too"
    for cut in range(start, len(data)):
        (folder / "records.jsonl").write_bytes(data[:cut])
        again = RunFolder(folder, "x", {})
        assert again.records == {key: RECORDS[key] for key in "ab"}
        again.append("c", RECORDS["c"])
        assert (folder / "records.jsonl").read_bytes() == data


@given(st.data())
def test_changed_bytes_are_an_error_or_change_nothing(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    store = RunFolder(folder, "x", {})
    for key, record in RECORDS.items():
        store.append(key, record)
    whole = (folder / "records.jsonl").read_bytes()
    start, end = (data.draw(st.integers(0, len(whole))) for _ in range(2))
    (folder / "records.jsonl").write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:])
    found, why = opened(folder)
    assert found == {key: RECORDS[key] for key in found}
    assert why.endswith("is damaged or of another version of rhlens: delete that line or the folder") or not why


@pytest.mark.parametrize(
    "damage",
    [
        b"garbage\n",
        b"garbage without an end",
        b'{"key": "a", "value": 1}\n',  # by hand, or by an rhlens before there were checksums
        b"\xff\xfe\n",
        b"\0\0\0\0",
        b"\n",
        _sealed(b'{"key": "z", "deep": ' + b"[" * 3000),
        _sealed(b'["key"'),
        _sealed(b'{"no key": 1'),
        _sealed(b'{"key": {}'),
        b'{"key": "' + b"x" * 5000,
        b'{"key": "' + b"x" * 5000 + b"\n",
    ],
)  # fmt: skip
def test_damage_is_reported_with_its_line_and_nothing_is_cut(folder, monkeypatch, damage):
    monkeypatch.setattr(store_module, "LONGEST_LINE", 4096)
    data = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl").write_bytes(data + damage)
    with pytest.raises(ValueError, match=r"line 4, is damaged .* delete that line or the folder"):
        RunFolder(folder, "x", {})
    assert (folder / "records.jsonl").read_bytes() == data + damage
    (folder / "records.jsonl").write_bytes(damage + data)
    with pytest.raises(ValueError, match="line 1, is damaged"):
        RunFolder(folder, "x", {})


def test_a_changed_number_is_noticed(folder):
    text = (folder / "records.jsonl").read_text()
    (folder / "records.jsonl").write_text(text.replace("2.5", "3.5"))
    with pytest.raises(ValueError, match="line 1, is damaged"):
        RunFolder(folder, "x", {})


def test_lines_may_be_deleted_reordered_and_repeated(folder):
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join([lines[2], lines[0], lines[0]]))
    assert kept(folder) == {key: RECORDS[key] for key in "ca"}


def test_of_two_records_with_one_key_the_first_counts(folder):
    """So that all who read a folder read the same."""
    with (folder / "records.jsonl").open("ab") as file:
        file.write(_sealed(b'{"key": "a", "value": "another"'))
    assert kept(folder) == RECORDS


def test_a_full_disk_is_one_sentence_and_loses_nothing(folder):
    """The kernel takes what still fits, and refuses the rest."""
    store, size = RunFolder(folder, "x", {}), (folder / "records.jsonl").stat().st_size
    before = (folder / "records.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write to the run folder .*run \(File too large\): mend that or"):
            store.append("d", {"value": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "records.jsonl").read_bytes() == before
    assert "d" not in store.records
    store.append("d", {"value": 4})
    assert kept(folder) == RECORDS | {"d": {"value": 4}}


def _file_in_the_way(path):
    path.write_text("")


def _loop(path):
    path.symlink_to(path.name)


def _loop_inside(path):
    path.mkdir()
    (path / "records.jsonl").symlink_to("records.jsonl")


def _read_only(path):
    path.symlink_to("/sys")  # root may write nearly anywhere else


def _folder_in_the_way(path):
    (path / "records.jsonl").mkdir(parents=True)


def _pipe(path):
    path.mkdir()
    os.mkfifo(path / "records.jsonl")


@pytest.mark.parametrize(
    ("build", "message"),
    [(_file_in_the_way, "cannot write to the run folder .*choose another"), (_loop, "cannot write to the run folder"),
     (_loop_inside, "cannot write to the run folder"), (_read_only, "cannot write to the run folder"),
     (_folder_in_the_way, "is no plain file: choose another folder"), (_pipe, "is no plain file")],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path, build, message):
    build(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        RunFolder(tmp_path / "run", "x", {}).append("a", {})


def test_records_that_vanish_while_a_run_goes_on_are_an_error(folder):
    store = RunFolder(folder, "x", {})
    (folder / "records.jsonl").unlink()
    with pytest.raises(ValueError, match="start the same command again"):
        store.append("d", {})


def test_two_verbs_share_a_folder(folder):
    RunFolder(folder, "ablate", {"b": 2})
    RunFolder(folder, "x", {"k": 3})
    assert json.loads((folder / "config.json").read_text()) == {"x": {"k": 3}, "ablate": {"b": 2}}


def test_a_config_is_whole_or_not_there_whenever_its_writer_dies(folder, monkeypatch):
    before = (folder / "config.json").read_bytes()

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        RunFolder(folder, "ablate", {"b": 2})
    assert (folder / "config.json").read_bytes() == before
    monkeypatch.undo()
    assert kept(folder) == RECORDS


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"text"', "null", '{"a": 1, "a": 2}', "[" * 100_000, "\ud800", "1" * 5000, b"\xff", b"\0"],
)  # fmt: skip
def test_a_damaged_config_is_one_sentence_and_stays(folder, text):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (folder / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"config\.json is damaged: delete it$"):
        RunFolder(folder, "x", {})
    assert (folder / "config.json").read_bytes() == data


def test_a_config_nested_as_deep_as_can_be_read_may_be_too_deep_to_write(folder):
    outcomes = set()
    for depth in range(800, 1010, 3):
        (folder / "config.json").write_text('{"a": ' + "[" * depth + "]" * depth + "}")
        found, why = opened(folder)
        assert found == RECORDS or why.endswith("config.json is damaged: delete it")
        outcomes.add(bool(found))
    assert outcomes == {True, False}


@given(st.one_of(st.binary(max_size=40), st.recursive(st.none() | st.floats() | st.text(max_size=3), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3))).map(
        lambda value: json.dumps(value).encode())))  # fmt: skip
def test_any_config_is_taken_up_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_bytes(data)
    _, why = opened(folder)
    if why:
        assert why.endswith("config.json is damaged: delete it")
        assert (folder / "config.json").read_bytes() == data
    else:
        assert json.loads((folder / "config.json").read_text())["x"] == {}


def test_what_another_process_finished_first_is_kept(tmp_path):
    one, other = RunFolder(tmp_path, "x", {}), RunFolder(tmp_path, "x", {})
    assert one.append("a", {"value": 1}) == {"value": 1}
    assert other.append("a", {"value": 2}) == {"value": 1}
    assert other.append("b", {"value": 3}) == {"value": 3}
    assert one.append("c", {"value": 4}) == {"value": 4}
    assert one.records == kept(tmp_path) == {"a": {"value": 1}, "b": {"value": 3}, "c": {"value": 4}}


def test_a_line_is_not_torn_while_its_writer_lives(tmp_path, monkeypatch):
    """Who opens a folder waits for who is writing, and says so if that takes too long."""
    monkeypatch.setattr(store_module, "PATIENCE", 0.05)
    store = RunFolder(tmp_path, "x", {})
    with FileLock(tmp_path / ".lock"):
        (tmp_path / "records.jsonl").write_bytes(b'{"key": "a", "val')
        with pytest.raises(TimeoutError, match=r"locked for 0\.05 s: end it if it hangs, or choose another folder"):
            RunFolder(tmp_path, "x", {})
        with pytest.raises(TimeoutError, match="locked for"):
            store.append("b", {})
    assert (tmp_path / "records.jsonl").read_bytes() == b'{"key": "a", "val'
    store.append("b", {"value": 1})
    assert kept(tmp_path) == {"b": {"value": 1}}


HAMMER = """
import sys
from rhlens.results.store import RunFolder
folder, me = sys.argv[1:]
store = RunFolder(folder, "hammer" + me, {"me": me})
for i in range(60):
    for key in (f"own {me} {i}", f"shared {i}"):
        store.append(key, {"by": me, "text": "語" * (i * 40)})
"""


def test_processes_that_write_at_once_and_die_lose_and_tear_nothing(tmp_path):
    """Four, of which two are killed on the way and started again."""

    def start(me):
        return subprocess.Popen([sys.executable, "-c", HAMMER, str(tmp_path), str(me)])

    workers = [start(me) for me in range(4)]
    for dead in (0, 1):
        deadline = time.monotonic() + 60
        while len(_lines(tmp_path)) < 30 * (dead + 1) and time.monotonic() < deadline:
            time.sleep(0.002)
        workers[dead].kill()
        workers[dead].wait()
        workers[dead] = start(dead)
    assert [worker.wait(120) for worker in workers] == [0] * 4
    lines = _lines(tmp_path)
    keys = Counter(json.loads(line)["key"] for line in lines)
    assert set(keys) == {f"own {me} {i}" for me in range(4) for i in range(60)} | {f"shared {i}" for i in range(60)}
    assert set(keys.values()) == {1}, "nobody keeps what another one has kept"
    assert len({record["by"] for record in kept(tmp_path).values()}) == 4
    assert {f"hammer{me}" for me in range(4)} < set(json.loads((tmp_path / "config.json").read_text()))


def _lines(folder):
    file = folder / "records.jsonl"
    return file.read_bytes().splitlines() if file.exists() else []


def test_keys_depend_on_every_part():
    base = ("trace", "model", 50, (1, 2, 3))
    keys = {content_key(*base), content_key("answer", *base[1:]), content_key("trace", "other", *base[2:]),
            content_key("trace", "model", 51, (1, 2, 3)), content_key("trace", "model", 50, (1, 2))}  # fmt: skip
    assert len(keys) == 5
    assert content_key(*base) == content_key(*base)
    assert content_key("trace", "model", np.int64(50), (1, np.int32(2), 3)) == content_key(*base)


def test_keys_are_of_values_only():
    with pytest.raises(TypeError):
        content_key(object())
    with pytest.raises(TypeError):
        content_key(np.float32(2.5))


def test_keys_depend_on_the_score_version(monkeypatch):
    before = content_key("a")
    monkeypatch.setattr(store_module, "SCORE_VERSION", store_module.SCORE_VERSION + 1)
    assert content_key("a") != before


def test_a_run_folder_writes_to_itself_and_waits_for_nobody(folder, tmp_path):
    (outside := tmp_path / "mine.txt").write_text("mine")
    (folder / ".config.json").symlink_to(outside)
    RunFolder(folder, "detect", {"seed": 1})
    assert outside.read_text() == "mine"
    os.mkfifo(folder / ".config.json")
    RunFolder(folder, "detect", {"seed": 2})
    assert json.loads((folder / "config.json").read_text())["detect"] == {"seed": 2}
