"""Many attention patterns in one view: the reader picks a trial and a head, without a kernel and without network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from rhlens.model.attention import Window
from rhlens.results.heads import Head
from rhlens.show.views import attention, save_page
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MAX_TRIALS = 8

_DRAW = """
  const view = document.getElementById(%(id)s), data = %(data)s;
  const [trial, head] = view.querySelectorAll("select"), said = view.querySelector("p");
  const draw = () => {
    const chosen = data[trial.value], at = Number(head.value), place = document.createElement("div");
    place.id = view.id + "-pattern";
    view.lastElementChild.replaceWith(place); // React draws once into an element
    said.textContent = `${chosen.about} ${head.options[at].text}: attention to the needle ` +
      `${chosen.toNeedle[at].toFixed(2)}, outside the crop ${chosen.outside[at].toFixed(2)}.`;
    CircuitsVis.render(place.id, CircuitsVis.AttentionPattern,
      {tokens: chosen.tokens, attention: chosen.patterns[at], showAxisLabels: true});
  };
  trial.onchange = head.onchange = draw;
  draw();
"""


class AttentionBrowser:
    """Attention of several heads on several trials; shows itself in a notebook, `save` writes a page for offline."""

    def __init__(self, trials: Sequence[Trial], heads: Sequence[Head], windows: Sequence[Window]) -> None:
        self.trials, self.heads, self.windows = list(trials), list(heads), list(windows)

    def _repr_html_(self) -> str:
        return self.html()

    def html(self) -> str:
        """Two lists to choose from, and the circuitsvis pattern of what is chosen."""
        view = f"rh-browser-{uuid4().hex[:8]}"  # views of one page must not draw into each other
        data = [_shown(t, w) for t, w in zip(self.trials, self.windows, strict=True)]
        script = _DRAW % {"id": _json(view), "data": _json(data)}
        trials = [f"{i}: {t.length} tokens, depth {t.depth:g}, {t.needle.kind}" for i, t in enumerate(self.trials)]
        lists = f"{_select('trial', trials)} {_select('head', [str(h) for h in self.heads])}"
        view_html = f'<div class="rh-browser" id="{view}" style="max-width:820px">{lists}<p></p><div></div></div>'
        return f'{view_html}<script type="module">{_circuitsvis()}{script}</script>'

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page."""
        return save_page(path, "rhlens attention", self.html())


def browse(
    model: TransformerBridge, trials: Sequence[Trial], heads: Sequence[tuple[int, int]], margin: int = 6
) -> AttentionBrowser:
    """Attention of `heads` on `trials`, of which the reader chooses one each; cropped as `rh.attention` does.

    Args:
        trials: at most 8, heads: at most 12: all patterns lie in the page.
        margin: tokens kept on either side of the needle.

    Raises:
        ValueError: no trials or heads, or too many.
    """
    if not 0 < len(trials) <= MAX_TRIALS:
        raise ValueError(f"choose 1 to {MAX_TRIALS} trials to browse, not {len(trials)}")
    views = [attention(model, trial, heads, margin) for trial in trials]
    return AttentionBrowser(trials, views[0].heads, [view.window for view in views])


def _shown(trial: Trial, window: Window) -> dict[str, Any]:
    """What the page needs of one trial; three digits are more than a colour can show."""
    about = f"{trial.needle.statement} Cropped to {len(window.texts)} of {window.n_tokens} tokens."
    return {
        "about": about,
        "tokens": [token.replace("\n", "⏎") for token in window.texts],
        "patterns": np.round(window.pattern.astype(float), 3).tolist(),
        "toNeedle": window.to_needle.astype(float).tolist(),
        "outside": window.outside.astype(float).tolist(),
    }


def _select(name: str, options: Sequence[str]) -> str:
    listed = "".join(f'<option value="{i}">{escape(text)}</option>' for i, text in enumerate(options))
    return f'<label>{name} <select name="{name}">{listed}</select></label>'


def _json(value: object) -> str:
    """JSON that cannot leave a script: no tag can begin in it."""
    return json.dumps(value).replace("<", "\\u003c")


def _circuitsvis() -> str:
    """The library from its own wheel; as a page it would come from a CDN."""
    bundle = resources.files("circuitsvis") / "dist" / "cdn" / "iife.js"
    return bundle.read_text(encoding="utf-8").replace("</script>", "")
