"""An answer, coloured by what stands behind each of its tokens, with links to where they were copied from."""

from __future__ import annotations

import hashlib
from html import escape
from pathlib import Path

from rhlens.results.support import SUPPORTED, Support
from rhlens.show.views import save_page

MARGIN = 12
"""Prompt tokens shown on either side of a source; all of a prompt is shown if it is short."""
SHORT = 600
"""Tokens of a prompt that is shown whole."""
_STYLE = (
    "<style>.rh-text{font:15px/2 system-ui,sans-serif;white-space:pre-wrap;overflow-wrap:anywhere}"
    ".rh-text a{color:inherit;text-decoration:none;border-bottom:2px solid #0072B2;border-radius:3px}"
    ".rh-text .rh-none{border-bottom:2px dotted #D55E00;border-radius:3px}"
    ".rh-text .rh-source{outline:2px solid #0072B2;border-radius:3px}"
    ".rh-text :target{background:#E69F00}.rh-prompt{color:#555;line-height:1.6}</style>"
)


class SupportView:
    """One generation with its sources; shows itself in a notebook, `save` writes a page that opens offline."""

    def __init__(self, support: Support) -> None:
        self.support = support
        digest = hashlib.sha256(repr((support.tokens.tolist(), support.source.tolist())).encode())
        self._id = f"rh-{digest.hexdigest()[:8]}"  # views of one notebook must not link into each other

    def _repr_html_(self) -> str:
        return self.html()

    def html(self) -> str:
        """Answer and prompt; every text in them is escaped, and nothing is fetched or run."""
        found = self.support
        names = ", ".join(map(str, found.heads[:12])) + (" and others" if len(found.heads) > 12 else "")
        score = found.score()
        share = "nothing said" if score != score else f"mean support {score:.2f}"
        return (
            f"{_STYLE}<p><b>Answer</b> ({share}). Underlined: copied from the prompt by {escape(names)}, the deeper "
            f"the colour the more attention went there; dotted: no support of {SUPPORTED:g} or more. Follow a link to "
            f'the source.</p><p class="rh-text">{self._answer()}</p><p><b>Prompt</b></p>'
            f'<p class="rh-text rh-prompt">{self._prompt()}</p>'
        )

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML page."""
        return save_page(path, "rhlens: what stands behind an answer", self.html())

    def _answer(self) -> str:
        parts = []
        for row in self.support.frame().to_dict(orient="records"):
            text = _shown(row["token"])
            if row["supported"]:
                told = escape(f"{row['support']:.2f} from token {row['source']} by {row['heads']}", quote=True)
                color = f"rgba(0,114,178,{0.45 * row['support']:.2f})"
                link = f"#{self._id}-{row['source']}"
                parts.append(f'<a href="{link}" title="{told}" style="background:{color}">{text}</a>')
            else:
                parts.append(f'<span class="rh-none" title="support {row["support"]:.2f}">{text}</span>')
        return "".join(parts)

    def _prompt(self) -> str:
        """The prompt's tokens around every source, or all of them, each source with a name to link to."""
        found, n = self.support, self.support.n_prompt
        scores = found.scores()
        sources = {s for s, score in zip(found.sources(), scores, strict=True) if s is not None and score >= SUPPORTED}
        near = {i for s in sources for i in range(s - MARGIN, s + MARGIN + 1)} | set(range(n - 3 * MARGIN, n))
        parts, left_out = [], False
        for i, text in enumerate(found.texts[:n]):
            if n > SHORT and i not in near:
                left_out = True
                continue
            if left_out:
                parts.append(" … ")
                left_out = False
            shown = _shown(text)
            parts.append(f'<span class="rh-source" id="{self._id}-{i}">{shown}</span>' if i in sources else shown)
        return "".join(parts)


def support(found: Support) -> SupportView:
    """The view of what stands behind one generation (`rh.watch(...)` reports it)."""
    return SupportView(found)


def _shown(token: str) -> str:
    return escape(token).replace("\n", "⏎\n")
