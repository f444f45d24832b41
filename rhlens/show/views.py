"""HTML views of attention that work offline, with everything that came from a prompt escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rhlens.model.attention import Window, attention_window
from rhlens.results.heads import Head
from rhlens.tasks.trials import Trial

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MAX_HEADS = 12
MAX_TOKENS = 96


class AttentionView:
    """An attention view of one trial; shows itself in a notebook, `save` writes a page that opens offline."""

    def __init__(self, trial: Trial, heads: Sequence[Head], window: Window) -> None:
        self.trial, self.heads, self.window = trial, list(heads), window

    def _repr_html_(self) -> str:
        return self.html()

    def html(self) -> str:
        """The circuitsvis view and, beside it, how much attention each head pays outside the crop."""
        from circuitsvis.attention import attention_heads

        names = [str(h) for h in self.heads]
        tokens = [_safe(token) for token in self.window.texts]
        view = attention_heads(self.window.pattern, tokens, attention_head_names=names)
        needle = escape(self.trial.needle.statement)
        return (
            f"<p><b>{needle}</b><br>Cropped to needle, question and answer: {len(tokens)} of {self.window.n_tokens} "
            f"tokens. Rows before the question are left empty.</p>{view.local_src}{self._outside()}"
        )

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page."""
        return save_page(path, "rhlens attention", self.html())

    def _outside(self) -> str:
        """A table: for the answer's tokens, each head's mean attention to the needle, and outside the crop."""
        rows = "".join(
            f"<tr><td>{h}</td><td>{inside:.2f}</td><td>{outside:.2f}</td></tr>"
            for h, inside, outside in zip(self.heads, self.window.to_needle, self.window.outside, strict=True)
        )
        return (
            "<table><tr><th>head</th><th>attention to the needle</th><th>attention outside the crop</th></tr>"
            f"{rows}</table><p>Means over the positions that produced the answer.</p>"
        )


def attention(
    model: TransformerBridge, trial: Trial, heads: Sequence[tuple[int, int]], margin: int = 6
) -> AttentionView:
    """The circuitsvis view of `heads` on one trial, cropped to needle, question and the model's answer.

    Args:
        heads: at most 12: a browser takes a minute to draw more.
        margin: tokens kept on either side of the needle.

    Raises:
        ValueError: no heads, or too many.
    """
    chosen = [Head(*h) for h in heads]
    if not 0 < len(chosen) <= MAX_HEADS:
        raise ValueError(f"choose 1 to {MAX_HEADS} heads to draw, not {len(chosen)}")
    return AttentionView(trial, chosen, attention_window(model, trial, chosen, margin, MAX_TOKENS))


def save_page(path: str | Path, title: str, body: str) -> Path:
    """Write one self-contained HTML page."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><style>body{font:15px/1.5 system-ui,sans-serif;'
        "margin:24px;max-width:1100px}td,th{padding:2px 14px 2px 0;text-align:left}</style></head>"
        f"<body>{body}</body></html>"
    )
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def _safe(token: str) -> str:
    """A token that cannot leave the page's script: `</script>` inside one would."""
    return token.replace("<", "‹").replace(">", "›").replace("\n", "⏎")
