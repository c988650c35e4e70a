"""Self-contained HTML pages: one look for all, nothing loaded from anywhere, written whole or not at all."""

from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **values: Any) -> str:
    """A page of `eval/report/templates/` (which extends `base.html`) with its values filled in.

    In a template `x | number` shows a figure with three decimals or significant digits, `x | interval` the ends of a
    metric's 95 % interval. A value that is missing is an error.
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
    return environment.get_template(template).render(**values)


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


def format_interval(row: Any) -> str:
    """The ends of a row's interval in brackets, or nothing."""
    if not row or row.get("low") is None or row.get("high") is None:
        return ""
    return f"[{format_number(row['low'])}, {format_number(row['high'])}]"
