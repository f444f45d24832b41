"""Curves of answers whose kinds are known: shares of errors, and what tasks lose, counted by hand."""

import numpy as np
import pandas as pd
import pytest

from rhlens.results.curves import AblationCurve
from rhlens.results.errors import ERRORS, errors_by_k
from rhlens.results.ordering import drops

WHOLE, BROKEN = ["correct"] * 6, ["hallucination"] * 3 + ["no answer"] * 2 + ["correct"]
DAMAGED = ["correct"] * 4 + ["incomplete"] * 2


def curve(top=BROKEN, controls=(WHOLE, DAMAGED), whole=WHOLE) -> AblationCurve:
    """Six answers of two needles: unablated, without two top heads, and without two others (two draws)."""
    conditions = [("top", 0, 0, whole), ("top", 2, 0, top), *(("random", 2, i, c) for i, c in enumerate(controls))]
    rows = [
        {"heads": heads, "k": k, "draw": draw, "trial": t, "needle": t % 2, "error": error,
         "recall": float(error == "correct"), "logprob": -3.0 * (error != "correct")}
        for heads, k, draw, errors in conditions for t, error in enumerate(errors)
    ]  # fmt: skip
    return AblationCurve(pd.DataFrame(rows))


def test_every_answer_is_of_one_kind():
    table = errors_by_k(curve())
    assert list(table) == ["heads", "k", "error", "share", "low", "high", "trials", "draws"]
    assert list(table.index) == list(range(len(table)))
    assert list(table["error"]) == list(ERRORS) * 4, "the kinds of a condition stand side by side"
    conditions = table.groupby(["heads", "k"], sort=False)
    assert list(conditions.groups) == [("top", 0), ("top", 2), ("random", 0), ("random", 2)]
    np.testing.assert_allclose(conditions["share"].sum(), 1)


def test_shares_are_counted_over_trials_and_draws():
    table = errors_by_k(curve()).set_index(["heads", "k", "error"])
    assert table.loc[("top", 2, "hallucination"), "share"] == pytest.approx(3 / 6)
    assert table.loc[("top", 2, "no answer"), "share"] == pytest.approx(2 / 6)
    assert table.loc[("random", 2, "incomplete"), "share"] == pytest.approx(2 / 12)
    assert tuple(table.loc[("random", 2, "incomplete"), ["trials", "draws"]]) == (6, 2)
    assert tuple(table.loc[("top", 2, "correct"), ["trials", "draws"]]) == (6, 1)
    assert (table["low"] <= table["share"]).all()
    assert (table["share"] <= table["high"]).all()


def test_answers_of_unknown_kinds_are_asked_for_anew():
    unknown = AblationCurve(curve().answers.drop(columns="error"))
    with pytest.raises(ValueError, match=r"^these answers have no column 'error', the kind of each: ask for th"):
        errors_by_k(unknown)


def test_each_task_loses_what_its_curve_says():
    hurt, never = curve(), curve([*BROKEN[:5], "no answer"], (["no answer"] * 6,), ["no answer"] * 6)
    table = drops({"needle": hurt, "fact": never}, 2)
    assert list(table) == ["task", "unablated", "without top", "without others", "drop", "low", "high", "share", "p",
                           "prompts", "draws"]  # fmt: skip
    needle, fact = (row for _, row in table.iterrows())
    assert (needle["task"], fact["task"]) == ("needle", "fact")
    assert (needle["unablated"], needle["without top"]) == (1, pytest.approx(1 / 6))
    assert needle["without others"] == pytest.approx(10 / 12)
    assert needle["drop"] == pytest.approx(4 / 6)
    assert needle["drop"] / needle["unablated"] == needle["share"]
    assert tuple(needle[["drop", "low", "high", "prompts"]]) == hurt.contrast(2)[:4]
    assert needle["p"] == hurt.p_value(2)
    assert tuple(needle[["prompts", "draws"]]) == (6, 2)
    assert np.isnan(fact["share"]), "of nothing nothing can be lost"


def test_a_drop_is_told_in_the_measure_asked_for():
    row = drops({"needle": curve()}, 2, "logprob").iloc[0]
    assert row["unablated"] == 0
    assert row["without top"] == pytest.approx(-2.5)
    assert row["drop"] == pytest.approx(2.0)
    assert tuple(row[["low", "high"]]) == curve().contrast(2, "logprob")[1:3]
    assert row["p"] == curve().p_value(2, "logprob")
    with pytest.raises(ValueError, match=r"the curve has no k = 3 of 'top' heads: measured were \[0, 2\]"):
        drops({"needle": curve()}, 3)


def test_log_probabilities_have_no_bounds():
    answers = curve().answers.assign(logprob=lambda a: -5.0 * (a["heads"] == "top") * (a["k"] > 0))
    constant = AblationCurve(answers)
    assert constant.level("top", 2, "logprob")[:3] == (-5, -5, -5)
    assert constant.contrast(2, "logprob")[:3] == (5, 5, 5)
    assert constant.contrast(2, "recall").high <= 1
    assert AblationCurve(answers.assign(recall=0.0)).contrast(2).low < 0 < constant.contrast(2).high
    table = constant.summary("logprob")
    assert list(table) == ["heads", "k", "logprob", "low", "high", "trials", "draws"]
    assert table["logprob"].tolist() == [0, -5, 0, 0]
