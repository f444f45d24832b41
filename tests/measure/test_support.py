"""What is watched while anybody generates, and what the engine reads, against plain Hugging Face and planted copies."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

import rhlens as rh
from rhlens.measure import detect as detect_module
from rhlens.measure.support import detect_made_up, supports, watch
from rhlens.results.heads import Head
from rhlens.results.scores import HeadScores
from rhlens.tasks.needles import Needle
from rhlens.tasks.pairs import without_needle
from rhlens.tasks.trials import Trial
from rhlens.zoo.tokenizer import zoo_tokenizer
from tests.support import ARCHITECTURES, make_tokenizer, plain_model, tiny_checkpoint

EVERY = [Head(layer, head) for layer in (0, 1) for head in range(4)]
N_PROMPT, N_NEW = 40, 24


def prompt(seed: int = 2, n: int = N_PROMPT) -> torch.Tensor:
    """Random tokens; of the second seed, no head of any model here looks at two places alike."""
    return torch.randint(2, 2048, (1, n), generator=torch.Generator().manual_seed(seed))


def trial_of(tokens: torch.Tensor) -> Trial:
    """Random tokens as something to ask."""
    n = tokens.shape[1]
    return Trial(Needle("k", "A is b.", "?", "b"), n, 0.5, tuple(tokens[0].tolist()), (2, 5), (2, 5), (9, n), (2, 5))


def greedily(model, tokens, n: int = N_NEW, cached: bool = True, **options):
    return model.generate(tokens, max_new_tokens=n, do_sample=False, use_past_kv_cache=cached, verbose=False, **options)


def plain_looks(plain, tokens: torch.Tensor, n_prompt: int):
    """[step, head] positions and weights over the full text, eagerly."""
    with torch.inference_mode():
        attentions = plain(tokens, output_attentions=True, use_cache=False).attentions
    rows = torch.stack([attentions[h.layer][0, h.head, n_prompt - 1 : -1] for h in EVERY], dim=1)
    return rows.argmax(-1).numpy(), rows.amax(-1).numpy()


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def pair(request, tmp_path_factory):
    folder = tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return rh.load(folder, quiet=True), plain_model(folder)


def test_watching_with_and_without_a_cache_sees_what_plain_attention_shows(pair):
    """Sliding windows of 16 too, whose caches forget: positions are the whole text's."""
    model, plain = pair
    for cached in (True, False):
        with watch(model, EVERY) as monitor:
            tokens = greedily(model, prompt(), cached=cached, stop_at_eos=False)
        report, (source, weight) = monitor.report, plain_looks(plain, tokens, N_PROMPT)
        assert len(monitor.reports) == 1
        assert report.n_prompt == N_PROMPT
        np.testing.assert_array_equal(report.tokens, tokens[0])
        np.testing.assert_array_equal(report.source, source)
        np.testing.assert_allclose(report.weight, weight, atol=1e-5)


def test_watching_and_asking_find_the_same(pair):
    model, _ = pair
    (asked,) = supports(model, [trial_of(prompt())], EVERY, N_NEW)
    n = len(asked.source)
    for cached in (True, False):
        with watch(model, EVERY) as monitor:
            greedily(model, prompt(), cached=cached)
        watched = monitor.report
        np.testing.assert_array_equal(watched.tokens[: N_PROMPT + n], asked.tokens)
        np.testing.assert_array_equal(watched.source[:n], asked.source)
        np.testing.assert_allclose(watched.weight[:n], asked.weight, atol=1e-5)
        assert watched.sources()[:n] == asked.sources()
        assert watched.texts[: N_PROMPT + n] == asked.texts
        assert watched.heads == asked.heads
        assert len(watched.source) == n or "\n" in asked.output, "asking ends at the end of a line"


@pytest.fixture(scope="module")
def needle_trials(planted_llama):
    return rh.niah(planted_llama[0], [256, 300], 2, needles=7)


def test_planted_copy_heads_copy_every_answer_token_from_its_place_in_the_needle(planted_llama, needle_trials):
    model, copy_heads = planted_llama
    every = [Head(layer, head) for layer in range(4) for head in range(8)]
    for trial, found in zip(needle_trials, supports(model, needle_trials, every), strict=True):
        n, true = len(trial.reply), np.arange(*trial.reply_span)
        assert tuple(found.tokens[trial.length :][:n]) == trial.reply
        assert found.texts[: trial.length] == [model.tokenizer.decode([t]) for t in trial.tokens]
        for h in every:
            at_its_place = found.source[:n, every.index(h)] == true
            assert at_its_place.all() if h in copy_heads else not at_its_place.any(), h
        assert found.from_prompt()[:n, [every.index(h) for h in copy_heads]].all()
        assert (found.weight[:n, [every.index(h) for h in copy_heads]] > 0.9).all()


def test_watching_a_planted_model_says_where_its_answer_is_from(planted_llama, needle_trials):
    model, copy_heads = planted_llama
    scores = rh.detect(model, needle_trials)
    for trial in needle_trials[::9]:
        with watch(model, scores) as monitor:
            greedily(model, torch.tensor([trial.tokens]), 12)
        report = monitor.report
        assert set(report.heads) == copy_heads
        assert report.sources()[: len(trial.reply)] == list(range(*trial.reply_span))
        assert report.score() > 0.9
        assert model.tokenizer.decode(report.tokens[trial.length :]) == report.output
        assert trial.answer in report.output
        assert report.frame()["supported"].all()
        with watch(model, [Head(1, 2), Head(3, 5)]) as monitor:
            greedily(model, torch.tensor([trial.tokens]), 12)
        assert monitor.report.score() == 0


def test_generations_one_after_another_have_a_report_each(tiny_llama):
    """The same prompt again, a shorter one, and one of a single token, with a cache and without."""
    asked = [prompt(), prompt(), prompt(3, 20), prompt(4, 1), prompt(5, 1)]
    for cached in (True, False):
        alone = []
        for tokens in asked:
            with watch(tiny_llama, EVERY) as monitor:
                greedily(tiny_llama, tokens, 6, cached)
            alone.append(monitor.report)
        with watch(tiny_llama, EVERY) as monitor:
            said = [greedily(tiny_llama, tokens, 6, cached)[0].tolist() for tokens in asked]
        assert [report.tokens.tolist() for report in monitor.reports] == said
        assert monitor.report.tokens.tolist() == said[-1]
        for report, expected in zip(monitor.reports, alone, strict=True):
            assert report.n_prompt == expected.n_prompt
            np.testing.assert_array_equal(report.source, expected.source)
            np.testing.assert_allclose(report.weight, expected.weight, atol=1e-6)


def test_a_report_can_be_read_while_generating_goes_on(tiny_llama):
    with watch(tiny_llama, EVERY) as monitor:
        first = greedily(tiny_llama, prompt(), 3)
        assert monitor.report.tokens.tolist() == first[0].tolist()
        longer = greedily(tiny_llama, first, 3)  # what goes on from the text before is one generation
        assert len(monitor.reports) == 1
        assert monitor.report.tokens.tolist() == longer[0].tolist()
        assert monitor.report.n_prompt == N_PROMPT


def test_what_is_generated_does_not_change_by_being_watched(tiny_llama):
    before = greedily(tiny_llama, prompt())
    with watch(tiny_llama, EVERY):
        torch.testing.assert_close(greedily(tiny_llama, prompt()), before)


def ends_with(model, token: int, monkeypatch) -> None:
    """Every text of this model ends with `token` from now on."""
    monkeypatch.setattr(model.original_model.generation_config, "eos_token_id", [1, token])
    monkeypatch.setattr(model.cfg, "eos_token_id", [1, token], raising=False)


def test_tokens_that_end_a_text_are_left_out(tiny_llama, monkeypatch):
    with watch(tiny_llama, EVERY) as monitor:
        whole = greedily(tiny_llama, prompt(), 6)[0].tolist()
    assert monitor.report.tokens.tolist() == whole
    end = next(i for i in range(N_PROMPT + 2, len(whole)) if whole[i] not in whole[N_PROMPT:i])
    ends_with(tiny_llama, whole[end], monkeypatch)
    with watch(tiny_llama, EVERY) as monitor:
        shorter = greedily(tiny_llama, prompt(), 6)[0].tolist()
    assert shorter == whole[: end + 1]
    assert monitor.report.tokens.tolist() == whole[:end]
    assert len(monitor.report.source) == end - N_PROMPT


def test_a_text_that_ends_before_it_begins_has_an_empty_report(tiny_llama, monkeypatch):
    ends_with(tiny_llama, int(greedily(tiny_llama, prompt(), 1)[0, -1]), monkeypatch)
    with watch(tiny_llama, EVERY) as monitor:
        greedily(tiny_llama, prompt(), 6)
    (asked,) = supports(tiny_llama, [trial_of(prompt())], EVERY)
    for found in (monitor.report, asked):
        assert found.source.shape == (0, len(EVERY))
        assert found.output == ""
        assert np.isnan(found.score())
        assert found.frame().empty


def test_several_texts_side_by_side_are_refused(tiny_llama):
    with watch(tiny_llama, EVERY) as monitor:
        for batch in (prompt().repeat(2, 1), ["One text.", "Another text."]):
            with pytest.raises(ValueError, match="one text at a time, not 2 side by side: generate singly"):
                greedily(tiny_llama, batch, 2)
        with pytest.raises(ValueError, match="nothing was generated yet"):
            _ = monitor.report
        greedily(tiny_llama, prompt(), 2)
        assert len(monitor.report.source) == 2, "watching goes on"


def test_a_generation_that_began_before_the_watch_is_refused(tiny_llama):
    _, cache = tiny_llama(prompt(), use_cache=True, return_type="logits_and_cache")
    with watch(tiny_llama, EVERY), pytest.raises(ValueError, match="begin each generation inside"):
        tiny_llama(torch.tensor([[5]]), past_key_values=cache, use_cache=True)


def test_hooks_are_gone_afterwards_and_the_users_own_stay(tiny_llama):
    def hooks() -> list[str]:
        return sorted(name for name, point in tiny_llama.hook_dict.items() if point.fwd_hooks)

    assert hooks() == []
    with watch(tiny_llama, EVERY):
        assert len(hooks()) > 0
    assert hooks() == []
    with pytest.raises(KeyboardInterrupt), watch(tiny_llama, EVERY):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="side by side"), watch(tiny_llama, EVERY):
        greedily(tiny_llama, prompt().repeat(2, 1), 2)
    assert hooks() == []
    assert not torch.is_inference_mode_enabled()
    with tiny_llama.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z)]):
        own = hooks()
        with watch(tiny_llama, EVERY):
            pass
        assert hooks() == own != []


def test_watching_sees_what_the_users_hooks_made_of_the_model(tiny_llama):
    def blind(scores, hook):
        scores[..., 1:] = torch.finfo(scores.dtype).min
        return scores

    with tiny_llama.hooks(fwd_hooks=[("blocks.1.attn.hook_attn_scores", blind)]), watch(tiny_llama, EVERY) as monitor:
        greedily(tiny_llama, prompt(), 4)
    of_layer_1 = [i for i, h in enumerate(EVERY) if h.layer == 1]
    assert (monitor.report.source[:, of_layer_1] == 0).all()
    assert (monitor.report.source > 0).any()


@pytest.mark.parametrize("kind", ["zoo", "byte-bpe", "sentencepiece"])
def test_a_plain_text_can_be_generated_from_and_watched(tmp_path, kind):
    tokenizer = zoo_tokenizer() if kind == "zoo" else make_tokenizer(kind)
    model = rh.load(tiny_checkpoint("llama", tmp_path, tokenizer=tokenizer), quiet=True)
    text = "The code of the old door is 4711. Question: what is it?"
    with watch(model, EVERY) as monitor:
        greedily(model, text, 4, stop_at_eos=False)
    report = monitor.report
    np.testing.assert_array_equal(report.tokens[: report.n_prompt], model.to_tokens(text)[0])
    assert len(report.source) == 4 - (report.tokens[-1] == model.tokenizer.eos_token_id)
    assert "".join(report.texts) == model.tokenizer.decode(report.tokens, clean_up_tokenization_spaces=False)
    assert len(report.texts) == len(report.tokens)


@pytest.mark.parametrize("kind", ["zoo", "byte-bpe", "sentencepiece", "words"])
@pytest.mark.parametrize("pad", [None, "the"])
def test_loading_sets_a_pad_token_and_changes_no_other_token(tmp_path, kind, pad):
    tokenizer = zoo_tokenizer() if kind == "zoo" else make_tokenizer(kind)
    own = pad and next(t for t in ("the", "Ġthe", "▁the") if t in tokenizer.get_vocab())
    tokenizer.pad_token = own
    folder = tiny_checkpoint("llama", tmp_path, tokenizer=tokenizer)
    loaded, plain = rh.load(folder, quiet=True).tokenizer, AutoTokenizer.from_pretrained(folder)
    assert loaded.pad_token == (own or loaded.eos_token)
    assert plain.pad_token == own
    texts = ["", "The code is 4711.", "Сад и кот\n\nяблоко", "the the </s> the", " <s>the"]
    for text in texts:
        for special in (True, False):
            expected = plain(text, add_special_tokens=special, return_offsets_mapping=True)
            assert loaded(text, add_special_tokens=special, return_offsets_mapping=True).data == expected.data
        assert loaded.decode(expected["input_ids"]) == plain.decode(expected["input_ids"])
    assert loaded.get_vocab() == plain.get_vocab()
    assert loaded(texts, padding=True)["input_ids"][0][-1] == loaded.pad_token_id


def test_answers_stand_in_the_order_of_their_questions_whatever_the_batches(planted_llama, needle_trials, monkeypatch):
    model, copy_heads = planted_llama
    heads = [*sorted(copy_heads, reverse=True), Head(0, 0)]
    shuffled = [needle_trials[i] for i in np.random.default_rng(0).permutation(len(needle_trials))]
    together = supports(model, shuffled, heads)
    monkeypatch.setattr(detect_module, "BATCH_TOKENS", 1)
    for trial, batched, alone in zip(shuffled, together, supports(model, shuffled, heads), strict=True):
        for found in (batched, alone):
            assert tuple(found.tokens[: trial.length]) == trial.tokens
            assert (found.n_prompt, list(found.heads)) == (trial.length, heads)
        pd.testing.assert_frame_equal(batched.frame(), alone.frame(), atol=1e-5)
    twice = supports(model, [shuffled[3]] * 2, heads)
    assert [found.tokens.tolist() for found in twice] == [together[3].tokens.tolist()] * 2


def test_heads_are_given_as_scores_or_one_by_one(planted_llama, needle_trials):
    model, copy_heads = planted_llama
    scores = rh.detect(model, needle_trials[:4])
    named, scored = (supports(model, needle_trials[:2], heads) for heads in (scores.retrieval_heads(), scores))
    for a, b in zip(named, scored, strict=True):
        assert list(a.heads) == list(b.heads) == scores.retrieval_heads()
        assert set(a.heads) == copy_heads
        np.testing.assert_array_equal(a.source, b.source)
    plain = supports(model, needle_trials[:2], [tuple(h) for h in copy_heads])
    assert plain[0].frame()["heads"][0].startswith("L")


@pytest.mark.parametrize("verb", ["watch", "supports"])
def test_heads_that_cannot_be_watched_are_refused(tiny_llama, verb):
    def ask(heads):
        if verb == "supports":
            return supports(tiny_llama, [trial_of(prompt())], heads)
        with watch(tiny_llama, heads):
            return None

    nothing = np.full((3, 2, 4), 0.09)
    frame = pd.DataFrame({"recall": [1.0] * 3, "needle": list("abc")})
    for heads, message in (
        (HeadScores(nothing, nothing, frame), "no head scores 0.1 or more"),
        ([], "no head to watch"),
        ([(2, 0)], "L2H0 is not a head of this model"),
        ([(0, 1), (0, 1)], "named twice"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(heads)
    with pytest.raises(ValueError, match="nothing to ask"):
        supports(tiny_llama, [], EVERY)


def test_every_question_is_asked_with_and_without_its_needle(planted_llama, needle_trials):
    (model, copy_heads), trials = planted_llama, needle_trials
    found = detect_made_up(model, trials, copy_heads, draws=3)
    n = len(trials)
    assert found.absent.tolist() == [False] * n + [True] * n
    assert found.control.shape == (3, 2 * n)
    said = supports(model, [*trials, *without_needle(model, trials)], copy_heads)
    np.testing.assert_allclose(found.trials["support"], [np.nan_to_num(support.score()) for support in said], atol=1e-4)
    assert found.trials.loc[~found.absent, "support"].min() > 0.9, "planted heads copy every answer"
    assert not found.trials.loc[found.absent, "exact"].any(), "nothing says what is asked"
