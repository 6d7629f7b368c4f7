"""A report as one HTML page: no scripts, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: left; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #888; }
""".strip()


def to_html(
    title: str, facts: Mapping[str, str], titles: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    """A page with a heading, a table of facts, a table of rows, and notes; all text is escaped."""
    parts = [f"<h1>{escape(title)}</h1>"]
    if facts:
        parts.append(_table([], list(facts.items())))
    if rows:
        parts.append(_table(titles, rows))
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>\n{_STYLE}\n</style>'
    return "\n".join(["<!doctype html>", f'<html lang="en"><head>{head}</head><body>', *parts, "</body></html>", ""])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = f"<thead>{_row('th', titles)}</thead>" if titles else ""
    return f"<table>{head}<tbody>\n" + "\n".join(_row("td", row) for row in rows) + "\n</tbody></table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
