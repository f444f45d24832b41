"""What rounding does to retrieval scores is counted right, and small on trained models."""

import numpy as np
import pandas as pd
import pytest

import rhlens as rh
from rhlens.measure.precision import Reading, differences, reading
from rhlens.model.trace import Trace
from rhlens.show.precision import precision_figure
from rhlens.zoo.registry import trained_models

SCORES = np.array([[0.5, 0.2, 0.0], [0.0, 0.05, 0.0]])


def read(tokens: list[int], positions: list[list[int]], scores=SCORES) -> Reading:
    looks = np.array(positions, dtype=np.int32).reshape(-1, 2, 3)
    empty = np.zeros(len(tokens), dtype=np.float32)
    return Reading([Trace(np.array(tokens), empty, looks, np.zeros(looks.shape, dtype=np.float32))], scores, {})


def test_positions_are_compared_while_both_read_the_same():
    exact = read([5, 6, 7], [[1] * 6, [2] * 6, [3] * 6])
    assert differences(exact, exact) == {
        "heads": 2, "lost": "", "gained": "", "pearson": pytest.approx(1), "largest": 0.0, "moved": 0.0,
        "moved_retrieval": 0.0, "answers": 0.0}  # fmt: skip
    scores = np.array([[0.5, 0.05, 0.0], [0.0, 0.1, 0.0]])
    found = differences(exact, read([5, 9, 7], [[1, 9, 1, 1, 1, 1], [2] * 6, [9] * 6], scores))
    assert found["moved"] == pytest.approx(1 / 12), "the third step follows other words"
    assert found["moved_retrieval"] == pytest.approx(1 / 4)
    assert (found["heads"], found["lost"], found["gained"]) == (2, "L0H1", "L1H1")
    assert found["largest"] == pytest.approx(0.15)
    assert found["answers"] == 1
    silent = differences(read([], []), read([], [], np.zeros((2, 3))))
    assert np.isnan([silent["moved"], silent["pearson"]]).all()


def test_a_model_that_differs_is_drawn_hollow():
    rows = [{"model": "a", "dtype": "bfloat16", "decode": path, "lost": lost, "gained": "", "moved": 0.01,
             "largest": 0.02} for path, lost in (("twin", "L4H3"), ("bridge", ""))]  # fmt: skip
    left, right = precision_figure(pd.DataFrame(rows), "n = 2").axes
    faces = [drawn.get_facecolors()[0][:3].tolist() for drawn in right.collections if len(drawn.get_offsets())]
    assert faces[0] == [1, 1, 1]
    assert faces[1] != [1, 1, 1]
    assert [text.get_text() for text in left.get_yticklabels()] == ["a"]


def test_no_trials_are_an_error(tiny_llama):
    with pytest.raises(ValueError, match="no trials"):
        reading(tiny_llama, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", trained_models(controls=False))
def test_sixteen_bits_find_the_heads_that_float32_finds(name):
    """But for heads at the threshold. The fast copy is no further from float32 than TransformerLens is."""
    bridge = rh.load(name, quiet=True)
    trials = rh.niah(bridge, [256], 2, needles=7, distractors=1)
    exact = reading(bridge, trials)
    for dtype, most in (("bfloat16", 0.03), ("float16", 0.006)):
        model = rh.load(name, dtype=dtype, quiet=True)
        fast = reading(model, trials)
        with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: x)]):
            slow = reading(model, trials)
        assert (fast.run["decode"], slow.run["decode"]) == ("twin", "bridge")
        off, slow_off = differences(exact, fast), differences(exact, slow)
        assert off["pearson"] > 0.999
        assert off["moved"] < most
        assert off["moved"] < 1.5 * slow_off["moved"] + 0.002
        for head in [*off["lost"].split(), *off["gained"].split()]:
            layer, number = rh.Head.parse(head)
            assert abs(exact.scores[layer, number] - 0.1) < 0.05, "a head at the threshold"
