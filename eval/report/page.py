"""Self-contained HTML pages: one look for all, nothing loaded from anywhere, written whole or not at all."""

import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from eval.report.palette import css, themed

TEMPLATES = Path(__file__).parent / "templates"
_WORDS = re.compile(r"<desc>(.*?)</desc>", re.DOTALL)
_SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_WIDTH = re.compile(r'<svg\b[^>]*\bviewBox="\S+ \S+ (\S+)')
BROAD = 400  # points: wider charts are scrolled on a phone, or nobody could read their letters
_ID = re.compile(r'(\bid="|url\(#|href="#)')


def render_page(template: str, **values: Any) -> str:
    """A page of `eval/report/templates/` (which extends `base.html`) with its values filled in.

    In a template `x | number` shows a figure with three decimals or significant digits, `x | interval` the ends of a
    metric's 95 % interval, `x | chart` a fragment that a chart function or an evaluator made. A value that is missing
    is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["interval"] = format_interval
    environment.filters["breakable"] = breakable
    environment.filters["chart"] = Charts()
    return environment.get_template(template).render(palette=Markup(css()), **values)


class Charts:
    """Puts fragments of HTML or SVG on one page: in its colours, with ids of their own, and charts in words below."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, fragment: str) -> Markup:
        """The fragment, safe to stand on the page."""
        return Markup(_SVG.sub(lambda found: self._embed(found[0]), fragment))

    def _embed(self, svg: str) -> str:
        self.number += 1
        words = _WORDS.search(svg)
        svg = _ID.sub(rf"\g<1>c{self.number}-", themed(_WORDS.sub("", svg)))
        width = _WIDTH.search(svg)
        if width and float(width[1]) > BROAD:
            svg = svg.replace("<svg", '<svg class="broad"', 1)
        if not words:
            return svg
        lines = "".join(f"<li>{escape(line)}</li>" for line in unescape(words[1]).strip().split("\n"))
        return f'{svg}<details class="words"><summary>In words</summary><ul>{lines}</ul></details>'


def format_number(value: Any) -> str:
    """A figure as people read it; other things as they are, and a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, (str, bool)) or not isinstance(value, (int, float)):
        return str(value)
    if value != value:  # not a number
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if value != 0 and abs(value) < 0.0005:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def breakable(name: Any) -> Markup:
    """A name that may go on in the next line after an underscore, slash, colon, bracket, or equals sign."""
    return Markup(re.sub(r"([_/:=@\[])", r"\1<wbr>", escape(str(name))))


def format_interval(row: Any) -> str:
    """The ends of a row's interval in brackets, or nothing."""
    if not row or row.get("low") is None or row.get("high") is None:
        return ""
    return f"[{format_number(row['low'])}, {format_number(row['high'])}]"
