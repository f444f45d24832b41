"""Score files that nobody should have to trust: one sentence, soon, whatever is in them; never a wrong number."""

import json
import os
import struct
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhlens.results.head_tables import HeadList, KVHeadScores
from rhlens.results.interop import read_scores
from rhlens.results.scores import HeadScores
from tests.support import refusal

refused = partial(refusal, read_scores)
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def put(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"0-0": [1], "0-0": [2]}', "key twice"),
        ('{"0-0": [1], "L0H0": [2]}', "head twice"),
        ('{"0-0": [1], "00-0": [2]}', "head twice"),
        ('{"1-1000000000": [1]}', "every head"),
        ('{"1000000000-1": [1]}', "every head"),
        ('{"%s-1": [1]}' % ("9" * 5000), "names no head"),
        ('{"0-0": [1e999]}', "not finite"),
        ('{"0-0": [Infinity]}', "not finite"),
        ('{"0-0": [NaN]}', "not finite"),
        ('{"0-0": [1e300]}', "not finite or beyond"),
        ('{"0-0": [%s]}' % ("1" + "0" * 400), "not finite"),
        ('{"0-0": [%s]}' % ("1" * 5000), "digits"),
        ('{"0-0": ["0.5"]}', "not numbers"),
        ('{"0-0": [true]}', "not numbers"),
        ('{"0-0": [null]}', "not numbers"),
        ('{"0-0": [[1]]}', "not numbers"),
        ('{"0-0": {"a": 1}}', "equally many"),
        ('{"0-0": "11", "0-1": "22"}', "equally many"),
        ('{"0-0": [1], "0-1": []}', "equally many"),
        ('{"0-0": [], "0-1": []}', "holds no trial"),
        ('{"0-0": [-0.1]}', "below 0"),
        ('{"²-0": [1]}', "names no head"),
        ('{"\\ud800-0": [1]}', "names no head"),
        ("[" * 100_000, "nested too deeply"),
        ('{"0-0": ' + "[" * 100_000, "nested too deeply"),
        ("{}", "no head"),
        ("null", "no object"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"", "is empty"),
        (b"\0" * 100, "not JSON|Expecting value"),
    ],
)
def test_json_that_is_no_scores_is_refused_with_its_reason(tmp_path, content, why):
    sentence = refused(put(tmp_path / "scores.json", content))
    assert any(part in sentence for part in why.split("|")), sentence


@pytest.mark.parametrize(
    "content",
    ["1\t2\n3", "1\t\n2\t3", "nan\t1", "inf\t1", "1e300\t1", "1\n\n2", "1_0\t2", "0x10\t1", "a\tb", "1,2\t3", "1\t2#x",
     "١\t2", "True\t1", "1\0\t2", "\n\n", "1j\t0", "x" * 70_000],
)  # fmt: skip
def test_tables_that_are_no_gates_are_refused(tmp_path, content):
    refused(put(tmp_path / "heads.tsv", content))


@pytest.mark.parametrize(
    "content",
    [
        'attn_head_set: ""', "attn_head_set: 3", "attn_head_set: [13-18]", "other: 1", "[]", "1", "a: b: c", "\tx",
        'attn_head_set: "13-18,13-18"', 'attn_head_set: "13-18,"', 'attn_head_set: "1-2"\nattn_head_set: "3-4"',
        f'attn_head_set: "{"9" * 5000}-1"', "attn_head_set: 2001-99-99", "attn_head_set: !!timestamp x",
        "attn_head_set: !!int ''", "attn_head_set: !!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system", "%YAML 9.9\n",
        "attn_head_set: &a 1-2\nb: *a", "a: &a [x]\n<<: *a", "---\na: 1\n---\nb: 2", "\x00", "? [a]\n: b",
        "[" * 60_000, "{a: " * 10_000, "- " * 30_000, "? " * 30_000, "x" * 70_000, "!" * 60_000, "&" * 60_000,
        "attn_head_set: " + ":".join(["1"] * 30_000), "attn_head_set: !!int " + ":".join(["59"] * 20_000),
    ],
)  # fmt: skip
def test_yaml_that_is_no_list_of_heads_is_refused(tmp_path, content):
    refused(put(tmp_path / "heads.yaml", content))


def test_a_yaml_bomb_does_not_go_off(tmp_path):
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    merges = [f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}'] * 9)}]" for i in range(1, 30)]
    for lines in (["a0: &a0 [x, x]", *levels], ["m0: &m0 {x: 1}", *merges]):
        assert "aliases" in refused(put(tmp_path / "bomb.yaml", "\n".join([*lines, 'attn_head_set: "1-2"'])))


@pytest.mark.parametrize("suffix", [".json", ".tsv", ".yaml", ".safetensors", ".txt"])
def test_what_is_no_file_or_too_large_a_file_is_not_read(tmp_path, suffix):
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    assert "is a folder" in refused(folder)
    assert "does not exist" in refused(tmp_path / f"none{suffix}")
    os.mkfifo(tmp_path / f"pipe{suffix}")
    assert "no plain file" in refused(tmp_path / f"pipe{suffix}"), "reading it would wait forever"
    with (sparse := tmp_path / f"sparse{suffix}").open("wb") as file:
        file.truncate(6 * 2**30)
    assert "6,144.0 MiB" in refused(sparse)
    with pytest.raises(ValueError, match="cannot be read"):
        read_scores(f"{'x' * 5000}{suffix}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
head_names = st.builds("{}-{}".format, st.integers(0, 2), st.integers(0, 2)) | st.text(max_size=5)


@quick
@given(st.dictionaries(head_names, st.lists(st.floats() | json_values, max_size=3) | json_values, max_size=6))
def test_any_json_is_read_as_it_stands_or_refused(tmp_path, entries):
    path = put(tmp_path / "any.json", json.dumps(entries))
    try:
        scores = read_scores(path)
    except ValueError:
        refused(path)
        return
    for (layer, head), mean in np.ndenumerate(scores.mean()):
        assert mean == pytest.approx(np.mean(entries[f"{layer}-{head}"]))
    assert len(entries) == scores.mean().size


@quick
@given(st.binary(max_size=200) | st.text(max_size=200), st.sampled_from([".json", ".tsv", ".yaml", ".safetensors", ""]))
def test_noise_is_a_sentence_or_a_table(tmp_path, content, suffix):
    path = put(tmp_path / f"noise{suffix}", content)
    try:
        found = read_scores(path)
    except ValueError:
        refused(path)
    else:
        assert isinstance(found, KVHeadScores | HeadList)
        assert suffix != ".safetensors"


@quick
@given(st.lists(st.lists(st.floats(), min_size=1, max_size=4), min_size=1, max_size=4))
def test_any_table_is_read_as_it_stands_or_refused(tmp_path, rows):
    path = put(tmp_path / "any.tsv", "\n".join("\t".join(map(repr, row)) for row in rows))
    sound = len({len(row) for row in rows}) == 1 and all(abs(x) <= 1e6 for row in rows for x in row)
    if sound:
        np.testing.assert_array_equal(read_scores(path).values, rows)
    else:
        refused(path)


@quick
@given(st.data())
def test_truncated_or_scribbled_files_are_never_read_as_something_else(tmp_path, data):
    values = np.round(np.random.default_rng(0).random((3, 2, 2)), 2)
    frame = pd.DataFrame({"recall": [1.0, 0.2, 0.8], "needle": ["é", "b", "c"]})
    whole = HeadScores(values, values, frame, "toy", copies=np.zeros((2, 5), np.int32))
    path = whole.save(tmp_path / "scores.safetensors")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
        path.write_bytes(content)
        refused(path)
        return
    header = struct.unpack("<Q", content[:8])[0]  # scores themselves have no checksum: scribble on what describes them
    content[data.draw(st.integers(0, 7 + header))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = HeadScores.load(path)
    except ValueError:
        refused(path)
    else:
        known = [found.sum_scores] if found.set_scores is None else [found.sum_scores, found.set_scores]
        assert all(sorted(x.ravel()) == sorted(values.ravel()) for x in known), "labels may differ, numbers may not"
