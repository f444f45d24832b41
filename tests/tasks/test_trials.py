import itertools
import re
import unicodedata
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rhlens.tasks.haystack import GeneratedHaystack, sentence_starts
from rhlens.tasks.needles import Needle, bundled_needles, draw_needles
from rhlens.tasks.trials import Grid, niah
from tests.support import make_tokenizer

TOKENIZERS = {kind: make_tokenizer(kind) for kind in ("byte-bpe", "sentencepiece", "words")}
NEEDLES = [n for n in (*bundled_needles(), *draw_needles(14)) if n.kind != "foreign" or n.statement.isascii()]


def squeeze(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    length=st.integers(230, 700),
    depth=st.floats(0, 1),
    needle=st.sampled_from(NEEDLES),
    distractors=st.integers(0, 2),
    restate=st.booleans(),
    seed=st.integers(0, 5),
)
def test_spans_are_exact_under_every_tokenizer(kind, length, depth, needle, distractors, restate, seed):
    tok = TOKENIZERS[kind]
    [trial] = niah(tok, [length], [depth], needles=[needle], distractors=distractors, restate=restate, seed=seed)
    ids = list(trial.tokens)
    assert len(ids) == length
    assert ids[0] == tok.bos_token_id
    assert ids.count(tok.bos_token_id) == 1
    assert tok.eos_token_id not in ids, "the prompt stays open"
    assert squeeze(tok.decode(trial.answer_tokens)) == squeeze(needle.answer)
    assert squeeze(tok.decode(ids[slice(*trial.needle_span)])) == squeeze(needle.statement)
    question = squeeze(tok.decode(ids[slice(*trial.question_span)]))
    assert question.startswith("Question:" + squeeze(needle.question))
    assert question.endswith(squeeze("Answer:" + needle.cue) if restate else "Answer:")
    assert trial.question_span[1] == length
    assert trial.needle_span[0] <= trial.answer_span[0] < trial.answer_span[1] <= trial.needle_span[1]


@given(st.integers(200, 600), st.floats(0, 1), st.integers(0, 20))
@settings(max_examples=30)
def test_the_needle_stands_at_the_sentence_boundary_nearest_its_depth(length, depth, seed):
    tok = TOKENIZERS["byte-bpe"]
    needle = NEEDLES[seed % len(NEEDLES)]
    [trial] = niah(tok, [length], [depth], needles=[needle], seed=seed)
    text = tok.decode(trial.tokens, skip_special_tokens=True)
    haystack_with = text[: text.index("\n\nQuestion: ")]
    filler = haystack_with.replace(needle.statement + " ", "", 1)
    at = haystack_with.index(needle.statement)
    assert GeneratedHaystack(seed).text(len(filler)).startswith(filler)
    starts = sentence_starts(filler)
    assert at in starts
    # The haystack's last words are cut to length after the needle is placed, hence the slack of a few words.
    assert (
        abs(at - depth * len(filler)) <= min(abs(s - depth * len(filler)) for s in starts if s < len(filler) - 75) + 30
    )


def test_a_grid_is_every_length_depth_and_needle_and_seeded(tokenizer):
    trials = Grid([200, 300], 3, 4, seed=1).trials(tokenizer)
    assert [t.index for t in trials] == list(range(24))
    assert len({(t.length, t.depth, t.needle) for t in trials}) == 24
    assert {t.depth for t in trials} == {0.0, 0.5, 1.0}
    assert (
        trials == Grid([200, 300], 3, 4, seed=1).trials(tokenizer) != Grid([200, 300], 3, 4, seed=2).trials(tokenizer)
    )
    alone = Grid([300], [0.5], trials[0:4] and [t.needle for t in trials[:4]], seed=1).trials(tokenizer)
    assert [t.tokens for t in alone] == [t.tokens for t in trials if t.length == 300 and t.depth == 0.5]


def test_trials_of_one_grid_share_their_haystack(tokenizer):
    a, b = Grid([256], [0.5, 1.0], 1).trials(tokenizer)
    shared = min(a.needle_span[0], b.needle_span[0])
    assert shared > 50
    assert a.tokens[:shared] == b.tokens[:shared]


def test_a_trial_is_the_same_in_every_grid_that_holds_it(tokenizer):
    options = {"needles": 4, "distractors": 2, "seed": 3}
    small, large = niah(tokenizer, [300], [0.5], **options), niah(tokenizer, [200, 300], 5, **options)
    same = [t for t in large if t.length == 300 and t.depth == 0.5]
    assert [t.tokens for t in small] == [t.tokens for t in same]


def test_distractors_are_different_and_stand_apart(tokenizer):
    [trial] = niah(tokenizer, [600], [0.1], needles=1, distractors=2)
    text = tokenizer.decode(list(trial.tokens[: trial.question_span[0]]))
    places = [m.start() for m in re.finditer(r"The code of the", text)]
    assert len(places) == 3
    assert len({text[p : p + 60] for p in places}) == 3
    assert min(b - a for a, b in itertools.pairwise(places)) > len(text) / 6


@pytest.mark.parametrize(("depth", "other"), [(0.9, 0.4), (0.5, 0.0), (0.2, 0.7)])
def test_a_distractor_stands_half_a_haystack_on_from_the_end_to_the_beginning(tokenizer, depth, other):
    [trial] = niah(tokenizer, [600], [depth], needles=1, distractors=1)
    text = tokenizer.decode(list(trial.tokens[: trial.question_span[0]]))
    needle_at = text.index(trial.needle.statement)
    [distractor] = {m.start() for m in re.finditer("The code of the", text)} - {needle_at}
    assert distractor / len(text) == pytest.approx(other, abs=0.12)


def test_five_depths_are_asked_unless_others_are(tokenizer):
    assert [t.depth for t in niah(tokenizer, [150], needles=1)] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("verse", ["the moon is round\nand so is the night\n", "one word after another "])
def test_in_text_without_sentence_ends_the_depth_is_still_what_was_asked(tokenizer, tmp_path, verse):
    (tmp_path / "verse.txt").write_text(verse * 60)
    trials = niah(tokenizer, [500], 5, needles=1, haystack=tmp_path / "verse.txt")
    for trial in trials:
        assert abs(trial.labels["placed"] - trial.depth) < 0.15
        assert trial.needle.statement in tokenizer.decode(list(trial.tokens))


def test_an_answer_that_the_haystack_knows_already_is_refused(tokenizer, tmp_path):
    (tmp_path / "book.txt").write_text("We saw the lighthouse. It had the number 12345 on it. " * 20)
    known = Needle("code", "The code of the bell is 12345.", "What is the code of the bell?", "12345")
    with pytest.raises(ValueError, match=r"'12345' stands in the haystack even without"):
        niah(tokenizer, [400], 1, needles=[known], haystack=tmp_path)


def test_a_length_beyond_the_context_is_refused_at_once(tokenizer):
    with pytest.raises(ValueError, match="exceeds the model's context of 512"):
        Grid([256, 10**9], 1, 1).trials(tokenizer, context=512)


def test_a_users_text_is_the_haystack(tokenizer, tmp_path):
    (tmp_path / "book.txt").write_text("It was a day like any other. Nothing happened.\n\nThen it rained. " * 3)
    [trial] = niah(tokenizer, [400], [0.5], needles=1, haystack=tmp_path)
    assert tokenizer.decode(trial.tokens).count("Then it rained.") > 5


def test_a_chat_template_wraps_the_prompt_and_writes_its_own_special_tokens(tokenizer):
    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    chat.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    [trial] = niah(chat, [300], [0.3], needles=1, chat=True)
    text = chat.decode(trial.tokens)
    assert len(trial.tokens) == 300
    assert text.startswith("<bos><user>")
    assert text.count("<bos>") == 1
    assert text.endswith(f"<assistant>{trial.needle.cue}")
    assert trial.needle.statement in text
    chat.chat_template = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="does not pass a message's text on"):
        niah(chat, [300], [0.3], needles=1, chat=True)
    with pytest.raises(ValueError, match="no chat template"):
        niah(tokenizer, [300], [0.3], needles=1, chat=True)


def test_needles_that_cannot_be_placed_are_errors_that_name_them(tokenizer):
    with pytest.raises(ValueError, match=r"too short for the needle .*southern bell"):
        niah(tokenizer, [20], 1, needles=1)
    glued = Needle("glued", "The word is foobar.", "Which?", "foo")
    merged = Tokenizer(models.WordLevel({"<unk>": 0, "foobar": 1, ".": 2, "The": 3, "word": 4, "is": 5}, "<unk>"))
    merged.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match=r"cannot place the needle 'The word is foobar\.'"):
        niah(PreTrainedTokenizerFast(tokenizer_object=merged), [60], [0.5], needles=[glued])


def test_slow_tokenizers_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="fast version"):
        niah(Slow(), [100], 1, needles=1)


def test_a_prompt_longer_than_the_models_context_is_refused(tokenizer):
    trials = Grid([200], 1, 1).trials(tokenizer, context=205)
    assert len(trials[0].answer_tokens) == 5
    with pytest.raises(ValueError, match="choose a length of at most 199"):
        Grid([200], 1, 1).trials(tokenizer, context=204)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"lengths": []}, "lengths"),
        ({"lengths": [0]}, "lengths"),
        ({"lengths": [100], "depths": [1.5]}, "between 0 and 1"),
        ({"lengths": [100], "depths": 0}, "between 0 and 1"),
        ({"lengths": [100], "needles": 0}, "at least 1"),
        ({"lengths": [100], "needles": []}, "at least one needle"),
        ({"lengths": [100], "distractors": -1}, "distractors"),
    ],
)
def test_bad_grids_are_one_clear_sentence(grid, message):
    with pytest.raises(ValueError, match=message):
        Grid(**grid)


def test_a_model_brings_its_tokenizer_and_its_context(tokenizer):
    model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(n_ctx=200))
    assert niah(model, [150], 2, needles=2) == niah(tokenizer, [150], 2, needles=2)
    with pytest.raises(ValueError, match="context of 200 tokens"):
        niah(model, [201], 1, needles=1)


def test_every_length_that_has_room_is_met_exactly(tokenizer):
    [shortest] = [m for m in (re.search(r"take (\d+) tokens", refusal(tokenizer, 1)),) if m]
    least = int(shortest[1]) + 1
    assert least == int(re.search(r"take (\d+) tokens", refusal(tokenizer, least - 1))[1]) + 1
    for length in range(least + 8, least + 40):
        assert niah(tokenizer, [length], 1, needles=1)[0].length == length


def refusal(tokenizer, length: int) -> str:
    with pytest.raises(ValueError, match=f"length {length} is too short for the needle") as caught:
        niah(tokenizer, [length], 1, needles=1)
    return str(caught.value)
