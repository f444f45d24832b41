"""The kinds of answer, on answers made to be of each kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rhlens as rh
from rhlens.measure.errors import error_type
from rhlens.measure.recall import judge, rouge1_recall
from rhlens.results.errors import ERRORS
from rhlens.tasks.needles import KINDS, bundled_needles, distractor_of, draw_needles
from rhlens.tasks.trials import Trial

ANSWER = "Marwick with Elmar by bus"
STATEMENT = f"Calla spent the proud summer in {ANSWER}."
QUESTION = "Where did Calla spend the proud summer?"
CONTEXT = (
    f"The baker admired a copper kettle. {STATEMENT} Anselm spent the eager winter in Ravenholm with Tilde by tram. "
    f"The code of the bell is 57728. Question: {QUESTION} Answer: Calla spent the proud summer in"
)


def kind_of(said: str) -> str:
    return error_type(ANSWER, said, CONTEXT, f"{STATEMENT} {QUESTION}")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (ANSWER, "correct"),
        ("by bus: marwick with ELMAR.", "correct"),  # as for recall, order and case do not matter
        (f"{ANSWER}. Then a zeppelin came", "correct"),  # what else was said does not count
        ("Marwick", "incomplete"),
        ("Marwick by a bus", "incomplete"),  # "a" stands elsewhere and says nothing
        ("Calla spent the summer in Marwick", "incomplete"),  # the needle's other words contradict nothing
        ("Ravenholm with Tilde by tram", "wrong extraction"),
        ("Marwick with Tilde by bus", "wrong extraction"),  # mixed: what is wrong outweighs
        ("57728", "wrong extraction"),
        ("57729", "hallucination"),  # one digit off is another number
        ("Marwick with Zoltan by bus", "hallucination"),
        ("Ravenholm with Zoltan", "hallucination"),  # one invented word outweighs copied ones
        ("a zeppelin", "hallucination"),
        ("", "no answer"),
        ("...", "no answer"),
        ("in the", "no answer"),
        ("Calla spent the proud summer", "no answer"),  # only what was given
        ("The text does not mention where.", "no answer"),
        ("I don't know.", "no answer"),
        ("I don’t know.", "no answer"),
        ("There is no information about Calla.", "no answer"),
    ],
)
def test_constructed_answers_are_of_the_kind_they_were_made_to_be(said, kind):
    assert kind_of(said) == kind


@given(st.lists(st.sampled_from(CONTEXT.split()), max_size=8))
def test_words_of_the_context_are_never_a_hallucination(said):
    assert kind_of(" ".join(said)) != "hallucination"


@given(st.text(max_size=40))
def test_every_answer_is_of_one_kind_and_correct_is_full_recall(said):
    kind = kind_of(said)
    assert kind in ERRORS
    assert (kind == "correct") == (rouge1_recall(ANSWER, said) == 1)


@given(st.lists(st.sampled_from(ANSWER.split()), max_size=4))
def test_leaving_words_out_is_incomplete_at_worst(said):
    assert kind_of(" ".join(said)) in ("correct", "incomplete", "no answer")
    assert kind_of(" ".join([*said, "xyzzy"])) in ("correct", "hallucination")


@pytest.mark.parametrize("needle", [*bundled_needles(), *draw_needles(len(KINDS))], ids=lambda n: n.answer[:20])
def test_every_needle_and_script_knows_right_from_wrong(needle, tokenizer):
    """On the prompts that models get: the answer is right, half of it incomplete, the distractor's an extraction."""
    generated = needle.kind in KINDS and needle not in bundled_needles()
    trial = rh.niah(tokenizer, [400], [0.5], needles=[needle], distractors=int(generated))[0]
    assert trial.text.count(needle.statement) == 1
    kinds = {said: judge(trial, said)["error"] for said in (needle.answer, "qwxyzzy", "")}
    assert list(kinds.values()) == ["correct", "hallucination", "no answer"]
    if generated:
        other = distractor_of(needle, f"0:{trial.length}:{trial.depth}:0")
        assert other.statement in trial.text
        assert judge(trial, other.answer)["error"] == "wrong extraction"
    parts = needle.answer.split()
    if len(parts) > 1:
        assert judge(trial, parts[-1])["error"] == "incomplete"


def test_answers_carry_their_kind_and_a_trial_written_by_hand_needs_no_text(planted_llama):
    model, heads = planted_llama
    trials = rh.niah(model, [256], [0.5], needles=4)
    scores = rh.detect(model, trials)
    assert set(scores.trials["error"]) == {"correct"}
    curve = rh.ablate(model, trials, sorted(heads), [len(heads)], "zero", "both", draws=1)
    broken = curve.answers[(curve.answers["heads"] == "top") & (curve.answers["k"] == len(heads))]
    assert "correct" not in set(broken["error"])
    bare = Trial(trials[0].needle, 9, 0.5, tuple(range(9)), (1, 2), (1, 2), (3, 9), (1, 2))
    assert judge(bare, trials[0].answer)["error"] == "correct"
