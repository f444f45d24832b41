"""What a notebook shows of a result: its one line, a small map, and a table that sorts on a click.

It is plain HTML, without a model or a plotting library, and it still works in an exported page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from jaxtyping import Float

CELL = 13
"""Side of a map's cell, in pixels, where there are few."""
_WIDEST, _ABOVE, _BELOW = 420, "#0072B2", "#D55E00"

_STYLE = (
    "<style>.rh-result{display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start}.rh-scroll{max-height:340px;"
    "overflow:auto}.rh-table{border-collapse:collapse}.rh-table td,.rh-table th{padding:2px 10px;text-align:right;"
    "white-space:nowrap}.rh-table td:first-child,.rh-table th:first-child{text-align:left}.rh-table button{"
    "font:inherit;font-weight:bold;color:inherit;background:none;border:0;padding:0;cursor:pointer}.rh-table "
    "th[aria-sort=ascending] button::after{content:' ▲'}.rh-table th[aria-sort=descending] button::after{content:' ▼'}"
    ".rh-map text{font:11px system-ui,sans-serif;fill:currentColor}</style>"
)
# One listener serves every table of a page. What is no number (nan, a blank) stays last, in either direction.
_SORT = """<script>
window.rhlensSorts || (window.rhlensSorts = true, document.addEventListener("click", event => {
  const button = event.target.closest(".rh-table th button");
  if (!button) return;
  const th = button.parentNode, body = th.closest("table").tBodies[0];
  const down = th.getAttribute("aria-sort") === "ascending";
  const text = row => row.cells[th.cellIndex].textContent.trim();
  const number = row => text(row) === "" ? NaN : Number(text(row));
  const rows = [...body.rows], numeric = rows.some(row => !isNaN(number(row)));
  const order = (a, b) => numeric ? number(a) - number(b) : text(a).localeCompare(text(b), "en", {numeric: true});
  const known = rows.filter(row => !numeric || !isNaN(number(row))).sort((a, b) => down ? order(b, a) : order(a, b));
  body.append(...known, ...rows.filter(row => !known.includes(row)));
  for (const other of th.parentNode.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
}));
</script>"""


def result_html(result: object, table: pd.DataFrame, drawn: str = "") -> str:
    """What `result` says of itself, and below it the map that was drawn (if any) and the table, all text escaped."""
    parts = f'{drawn}<div class="rh-scroll">{_table(table)}</div>'
    return f'{_STYLE}<p>{escape(str(result))}</p><div class="rh-result">{parts}</div>{_SORT}'


def head_map(values: Float[np.ndarray, "layer head"], label: str, heads: str = "H") -> str:
    """A map of heads, layer 0 at the bottom; `label` says what a value is, `heads` how a column is called."""
    layers, width = values.shape
    names = [f"L{layer}" for layer in range(layers)]
    return small_map(values[::-1], names[::-1], [f"{heads}{head}" for head in range(width)], label)


def dose_map(summary: pd.DataFrame, label: str, dose: str = "k") -> str:
    """A map of a curve: one row a set of heads, one column a dose; blank where nothing was measured."""
    wide = summary.pivot(index="heads", columns=dose, values=label).reindex(summary["heads"].unique())
    doses = [f"{dose}={at:g}" for at in wide.columns]
    return small_map(wide.to_numpy(float), list(wide.index), doses, label, 2 * CELL)


def small_map(
    values: Float[np.ndarray, "row column"], rows: Sequence[str], columns: Sequence[str], label: str, cell: int = CELL
) -> str:
    """A drawing of numbers, the deeper the larger, orange below 0; each cell names itself and its value."""
    height, width = values.shape
    side = min(cell, _WIDEST / max(width, height, 1))
    most = np.nanmax(np.abs(values), initial=1e-9)
    left = 8 + 6.5 * max(len(rows[0]), len(rows[-1])) if height else 8
    told = {(y, x): f"{rows[y]} {columns[x]}: {values[y, x]:z.3f}" for y, x in np.ndindex(values.shape)}
    cells = "".join(
        f'<rect x="{left + x * side:.1f}" y="{y * side:.1f}" width="{side:.1f}" height="{side:.1f}" '
        f'fill="{_ABOVE if values[y, x] >= 0 else _BELOW}" fill-opacity="{abs(values[y, x]) / most:.2f}" '
        f'stroke="#999" stroke-width=".3"><title>{escape(told[y, x])}</title></rect>'
        for y, x in np.argwhere(np.isfinite(values))
    )
    ends = sorted({0, height - 1}) if height else []
    names = "".join(f'<text x="0" y="{(y + 0.5) * side + 4:.1f}">{escape(rows[y])}</text>' for y in ends)
    span = f", {columns[0]} to {columns[-1]}, deepest {most:.2f}" if width else ""
    under = escape(label + span)
    size = f'width="{max(left + width * side, 7 * len(label + span)):.0f}" height="{height * side + 18:.0f}"'
    return (
        f'<svg class="rh-map" {size} role="img" aria-label="map of {escape(label)}">{cells}{names}'
        f'<text x="0" y="{height * side + 14:.0f}">{under}</text></svg>'
    )


def _table(table: pd.DataFrame) -> str:
    header = "".join(f'<th><button type="button">{escape(str(name))}</button></th>' for name in table.columns)
    rows = table.astype(object).itertuples(index=False, name=None)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f'<table class="rh-table"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>'


def _cell(value: object) -> str:
    """Three digits of a float; nothing where it is not known."""
    if value is None or value is pd.NA or value != value:
        return ""
    return f"{value:z.3f}" if isinstance(value, (float, np.floating)) else escape(str(value))
