"""The attention view: right numbers, safe, and drawn by a browser without network."""

import numpy as np
import pytest
import torch

import rhlens as rh
from rhlens.tasks.needles import Needle
from tests.browser import in_chromium, needs_chromium
from tests.support import plain_model, tiny_checkpoint


def test_the_crop_holds_the_rows_of_a_plain_eager_forward(tmp_path):
    folder = tiny_checkpoint("llama-gqa", tmp_path)
    model, plain = rh.load(folder, quiet=True), plain_model(folder)
    [trial] = rh.niah(model, [200], [0.5], needles=1)
    heads = [rh.Head(0, 1), rh.Head(1, 3)]
    window = rh.attention(model, trial, heads, margin=4).window
    n_answer = window.n_tokens - trial.length
    answer = rh.detect(model, [trial], max_new_tokens=n_answer)
    assert answer.n_trials == 1
    start, end = trial.needle_span
    near = list(range(start - 4, end + 4))
    tail = list(range(trial.question_span[0], window.n_tokens))[-48:]
    keep = near + tail
    assert len(window.texts) == len(keep)
    assert "".join(window.texts[4 : 4 + end - start]).strip() == trial.needle.statement
    tokens = torch.tensor([trial.tokens])
    with torch.inference_mode():
        for _ in range(n_answer):
            tokens = torch.cat([tokens, plain(tokens).logits[:, -1:].argmax(-1)], 1)
        rows = plain(tokens, output_attentions=True).attentions
    for i, (layer, head) in enumerate(heads):
        full = rows[layer][0, head].numpy()
        for row, at in enumerate(keep):
            expected = full[at][keep] if at >= trial.question_span[0] else 0
            np.testing.assert_allclose(window.pattern[i, row], expected, atol=1e-5)
        answering = full[trial.length - 1 : window.n_tokens - 1]
        np.testing.assert_allclose(window.outside[i], 1 - answering[:, keep].sum(1).mean(), atol=1e-5)
        inside = answering[:, slice(*trial.needle_span)].sum(1).mean()
        np.testing.assert_allclose(window.to_needle[i], inside, atol=1e-5)


def test_a_planted_head_looks_at_the_needle_and_a_noise_head_does_not(planted_llama):
    model, copy_heads = planted_llama
    [trial] = rh.niah(model, [256], [0.5], needles=1)
    window = rh.attention(model, trial, [sorted(copy_heads)[0], (1, 1)]).window
    assert window.to_needle[0] > 0.9
    assert window.to_needle[1] < 0.2


@pytest.fixture
def hostile(planted_llama):
    """A view whose needle tries to break out of the page."""
    model, copy_heads = planted_llama
    code = "document.title='owned'"
    attack = Needle("x", f"The key is </script><script>{code}</script><b>.", "Key?", code)
    [trial] = rh.niah(model, [256], [0.5], needles=[attack])
    return rh.attention(model, trial, sorted(copy_heads))


def test_text_from_a_prompt_cannot_leave_its_place(hostile, tmp_path):
    page = hostile.save(tmp_path / "deep" / "view.html").read_text()
    assert "<script>document.title" not in page
    assert "&lt;script&gt;" in page
    assert "\\u2039" in page or "‹" in page, "the token is there, harmless"
    assert "cdn" not in page.split("<script")[0].lower()


@needs_chromium
def test_a_browser_draws_it_offline_without_an_error(hostile, tmp_path):
    page = hostile.save(tmp_path / "view.html")
    run = in_chromium(page, 8000)
    assert "<title>rhlens attention</title>" in run.stdout, "the needle's script did not run"
    drawn = sum(run.stdout.count(tag) for tag in ("<canvas", "<svg", "<img"))
    assert drawn >= 3, "the heads are drawn"
    assert "L2H3" in run.stdout
    assert "Uncaught" not in run.stderr
    assert "ERR_NAME_NOT_RESOLVED" not in run.stderr


def test_too_many_heads_are_refused(planted_llama):
    model, _ = planted_llama
    [trial] = rh.niah(model, [256], [0.5], needles=1)
    for heads in ([], [(0, i % 8) for i in range(13)]):
        with pytest.raises(ValueError, match="choose 1 to 12"):
            rh.attention(model, trial, heads)


def test_text_from_a_prompt_cannot_leave_a_view_to_browse(planted_llama, tmp_path):
    model, copy_heads = planted_llama
    attack = Needle("<b>x", "The key is </script><script>alert(1)</script>.", "Key?", "alert(1)")
    page = rh.browse(model, rh.niah(model, [256], [0.5], needles=[attack]), sorted(copy_heads)).save(
        tmp_path / "v.html"
    )
    text = page.read_text()
    assert "<script>alert" not in text
    assert "\\u003cscript>alert(1)" in text, "the needle is there, harmless"
    assert "&lt;b&gt;x" in text
    assert text.count("</script>") == 1


def test_no_trials_and_too_many_are_refused(planted_llama):
    model, copy_heads = planted_llama
    [trial] = rh.niah(model, [256], [0.5], needles=1)
    for trials in ([], [trial] * 9):
        with pytest.raises(ValueError, match="choose 1 to 8 trials"):
            rh.browse(model, trials, sorted(copy_heads))
