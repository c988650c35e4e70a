"""Every kind of page in a browser, on a phone and on a screen, by day and by night; colours, and charts in words."""

import html
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from balance import Problem, solve
from balance.audit import data_bias
from balance.changes import compare
from balance.intersections import intersections
from balance.m4.cells import Cells
from eval.report.charts import dumbbell_chart, forest_chart, frontier_chart, line_chart
from eval.report.page import TEMPLATES, Charts
from eval.report.palette import KINDS, OTHER, PALETTE, RUNS, THIS, themed
from eval.report.run_page import render
from eval.report.rundata import load_run
from eval.report.suite_page import render_suite
from eval.zoo.page import Analysis, render_analysis
from scripts.audit_charts import MOST_OPAQUE
from scripts.audit_page import write_comparison, write_page
from tests.browser import chromium, opened
from tests.made_run import make_run

LONG = "an_evaluator_of_a_very_long_name/mean_probability_difference[a concept of many words, photographed]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def a_run(folder: Path) -> Path:
    run = make_run(folder, "a-run-whose-name-is-" + "very-" * 12 + "long", rb=0.1)
    sets = {"held_out": {"images": 1200, "left_out": {"undecodable picture": 3}, "examples": {}}}
    (run / "evaluation_sets.json").write_text(json.dumps(sets))
    with open(run / "metrics.jsonl", "a") as file:
        for step in (0, 10):
            row = {"step": step, "epoch": 1, "samples": 100 * step, "name": LONG, "value": 0.1, "low": 0, "high": 1}
            file.write(json.dumps({**row, "count": 5, "prompts": "a photo of a person | " * 20}) + "\n")
    return run


def one_run(folder: Path) -> str:
    return render([load_run(a_run(folder))])


def three_runs(folder: Path) -> str:
    runs = [a_run(folder), make_run(folder, "b"), make_run(folder, "c", rb=0.2)]
    return render([load_run(run) for run in runs], "Three runs")


def a_suite(_: Path) -> str:
    names = ["mean", *(f"difference[concept {number}, photographed from behind]" for number in range(14))]
    rows: list[dict[str, Any]] = [
        {"name": f"ab/{name}", "evaluator": "ab", "value": 0.1 * at, "low": 0.1 * at - 1, "high": 0.1 * at + 1}
        for at, name in enumerate(names)
    ]
    facts = {
        "model": "/a/folder/" + "of-many-parts/" * 9 + "model",
        "suite": "full",
        "sets": {"faces": 1234},
        "left_out": {"faces": {"undecodable picture": 7}},
        "skipped": [f"evaluator_{number} is skipped: there is no /{'long/' * 20}folder." for number in range(12)],
        "truncated": ["a text " * 40],
        "kinds": {"ab": "association", "empty": "eat"},
        "seconds": {"all": 1.0, "embed": 0.5},
        "date": "2026-11-28T07:12:53+00:00",
        "image_size": 64,
        "loss": "clip",
        "headline": {"model AB": "ab/mean"},
        **dict.fromkeys(("parameters", "image_parameters", "text_parameters"), 1_000_000),
    }
    return render_suite(facts, rows, {"ab": {}})


def a_zoo(_: Path) -> str:
    rng = np.random.default_rng(0)
    rows = [
        {"model": f"model-{n}", "dataset_family": "ab"[n % 2], "name": name, "value": rng.normal()}
        for n in range(6)
        for name in ("v/mean_size", "imagenet/top1")
    ]
    correlations = pd.DataFrame([{"name": LONG, "n": 6, "r": 0.4, "low": -0.2, "high": 0.8, "p": 0.1, "q": 0.2}])
    found = Analysis(pd.DataFrame(rows), quality="imagenet/top1", correlations=correlations, notes=["a remark " * 30])
    return render_analysis(found)


def cells(seed: int) -> Cells:
    rng = np.random.default_rng(seed)
    s = (rng.random((3000, 2)) < (0.3, 0.2 + 0.1 * seed)).astype(float)
    y = (rng.random((3000, 3)) < np.where(s[:, :1] > 0, [0.4, 0.1, 0.2], [0.1, 0.3, 0.2])).astype(np.uint8)
    return Cells.from_arrays(
        s, y, None, ["woman", "age=an age group of many words"], ["nurse", "chef", "a dog, seen from afar"]
    )


def an_audit(folder: Path) -> str:
    data = cells(0)
    plan = solve(data, Problem(target={"woman": 0.5}, keep=0.6))
    rates = plan.rates(data.s, data.y)
    before, after = data_bias(data, target={"woman": 0.5}), data_bias(data, rates, {"woman": 0.5})
    path = write_page(folder / "audit.html", "/data/" + "folder/" * 20, before, after, plan, rates, data,
                      intersections(data, None, 0.95), 20, ["3 samples of a.tar could not be read."])  # fmt: skip
    return path.read_text(encoding="utf-8")


def two_audits(folder: Path) -> str:
    a, b = data_bias(cells(0)), data_bias(cells(4))
    names = ("/data/first/" + "folder/" * 9, "/data/second/" + "folder/" * 9)
    return write_comparison(folder / "audit.html", names, a, b, compare(a, b), 20).read_text(encoding="utf-8")


PAGES = (one_run, three_runs, a_suite, a_zoo, an_audit, two_audits)


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_a_page_fits_phones_and_screens_by_day_and_by_night(make: Any, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(make(tmp_path), encoding="utf-8")
    with opened(browser, path, 390) as found:
        found.run("() => document.querySelectorAll('details').forEach(one => { one.open = true; })")
        for width, dark in itertools.product((390, 1280), (False, True)):
            found.show(width, dark)
            assert found.wide == []
            background = found.run("() => getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")
            charts = found.run(DRAWN)
            assert charts, "no chart on the page"
            assert all(one["named"] and one["words"] for one in charts)
            assert {one["background"] for one in charts} == {background}, "charts follow the page"
            assert min(one["letters"] for one in charts) >= 9, "letters of fewer than 9 px"
        assert found.errors == []
        assert found.asked == []


DRAWN = """() => Array.from(document.querySelectorAll("figure svg")).map(one => ({
  named: one.getAttribute("role") === "img" && one.getAttribute("aria-label").length > 0,
  words: one.parentElement.querySelectorAll(".words li").length,
  background: getComputedStyle(one.querySelector("path")).fill,
  letters: Math.min(...Array.from(one.querySelectorAll("text"), text => parseFloat(getComputedStyle(text).fontSize)))
    * one.getBoundingClientRect().width / one.viewBox.baseVal.width,
}))"""


def test_tables_sort_and_search(browser: Browser, tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path, "a", rb=0.1)), load_run(make_run(tmp_path, "b"))]
    path = tmp_path / "page.html"
    path.write_text(render(runs), encoding="utf-8")
    names = """() => Array.from(document.getElementById("concept-table").tBodies[0].rows)
      .filter(row => !row.hidden).map(row => row.cells[0].textContent)"""
    with opened(browser, path, 390) as found:
        heading = found.page.locator("#concept-table thead th").nth(2)
        heading.get_by_role("button").click()
        assert found.run(names) == ["nurse", "<b>chef</b>"]
        heading.get_by_role("button").click()
        assert found.run(names) == ["<b>chef</b>", "nurse"]
        assert heading.get_attribute("aria-sort") == "descending"
        found.page.locator("input[aria-controls=concept-table]").fill("nurse")
        assert found.run(names) == ["nurse"]
        assert found.errors == []


def test_figures_sort_as_figures(browser: Browser, tmp_path: Path) -> None:
    rows = "".join(f"<tr><td>{text}</td></tr>" for text in ("1,200", "9", "-3.5 [-4, -3]", "80"))
    table = f'<table class="sortable" id="t"><thead><tr><th>n</th></tr></thead><tbody>{rows}</tbody></table>'
    path = tmp_path / "page.html"
    path.write_text((TEMPLATES / "base.html").read_text().replace("{% block body %}{% endblock %}", table))
    with opened(browser, path) as found:
        found.page.locator("thead button").click()
        cells = "() => Array.from(document.querySelectorAll('td')).map(cell => cell.textContent)"
        assert found.run(cells) == ["-3.5 [-4, -3]", "9", "80", "1,200"]


def test_the_browser_sees_errors_and_what_sticks_out(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<body><img src='gone.png'><div style='width: 800px'>wide</div><script>nothing.here()</script>")
    with opened(browser, path, 390) as found:
        assert any("nothing is not defined" in error for error in found.errors)
        assert any("gone.png" in url for url in found.asked)
        assert any("wide" in one for one in found.wide)


# ------------------------------------------------------------------ colours


def linear(colour: str) -> Any:
    """Linear sRGB of `#rrggbb`."""
    c = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one: Any, other: Any) -> float:
    """The ratio of WCAG 2 between two colours of linear sRGB."""
    light, dark = sorted((float(np.array([0.2126, 0.7152, 0.0722]) @ c) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: Any) -> Any:
    """CIE 1976 L*a*b* of linear sRGB."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes (2009), severity 1: what dichromats see.
SEEN_WITH = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("form", ["light", "dark"])
def test_colours_can_be_seen_and_told_apart(form: str) -> None:
    colour = {name: linear(getattr(one, form)) for name, one in PALETTE.items()}
    for background in ("page", "panel"):
        assert contrast(colour["ink"], colour[background]) >= 7
        assert contrast(colour["soft"], colour[background]) >= 4.5
    series = [name for name, one in PALETTE.items() if one.light in RUNS]
    for name in (*series, "over", "under"):
        assert contrast(colour[name], colour["page"]) >= 3, name
    for kind, seen in SEEN_WITH.items():
        for one, other in itertools.combinations(series, 2):
            distance = np.linalg.norm(lab(np.array(seen) @ colour[one]) - lab(np.array(seen) @ colour[other]))
            assert distance > 11, (kind, one, other)
    for end in ("over", "under"):  # figures stand in the fields of a heat map
        blend = [(1 - MOST_OPAQUE) * int(getattr(PALETTE["page"], form)[at : at + 2], 16)
                 + MOST_OPAQUE * int(getattr(PALETTE[end], form)[at : at + 2], 16) for at in (1, 3, 5)]  # fmt: skip
        assert contrast(colour["ink"], linear("#" + "".join(f"{round(c):02x}" for c in blend))) >= 4.5


def test_a_colour_has_one_meaning() -> None:
    for form in ("light", "dark"):
        assert len({getattr(one, form) for one in PALETTE.values()}) == len(PALETTE)
    before = {"value": 0.1, "low": 0.0, "high": 0.2}
    forest = forest_chart("t", ["a"], [("this run", [before]), ("before", [before])], "x")
    dumbbell = dumbbell_chart("t", [("a", 0.1, 0.2)], "x", None)
    for chart in (forest, dumbbell):
        assert chart.count(THIS) > 0
        assert chart.count(OTHER) > 0
    alone = line_chart("t", [0, 1], [{"label": "a", "y": [0, 1]}], "x")
    assert THIS in alone
    assert OTHER not in alone
    groups = line_chart("t", [0, 1], [{"label": name, "y": [0, 1]} for name in "abc"], "x")
    assert not {THIS, OTHER} & set(re.findall("#[0-9a-f]{6}", groups))
    assert all(colour in groups for colour in KINDS[:3])


def test_charts_take_the_colours_of_their_page() -> None:
    assert themed('style="fill: #0072b2; stroke: #D55E00"') == 'style="fill: var(--this); stroke: var(--other)"'
    assert themed("#0072b25 &#0072b2; url(#p0072b2)") == "#0072b25 &#0072b2; url(#p0072b2)"
    chart = line_chart("t", [0, 1], [{"label": name, "y": [0, 1]} for name in "ab"], "x", zero=True)
    page = str(Charts()(chart))
    assert re.findall("#[0-9a-f]{6}", page) == [], "all colours are the palette's"


def test_ids_of_charts_on_one_page_differ() -> None:
    charts, chart = Charts(), line_chart("t", [0, 1], [{"label": "a", "y": [0, 1]}], "x")
    one, two = (str(charts(chart)) for _ in range(2))
    ids = [set(re.findall(r'\bid="([^"]+)"', page)) for page in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', one)) <= ids[0]


def test_charts_say_their_figures_in_words() -> None:
    rows = [{"value": 0.25, "low": 0.125, "high": 0.5}, None]
    forest = str(Charts()(forest_chart("t", ["a <b>", "c"], [("one", rows), ("two", rows)], "x")))
    assert "<li>a &lt;b&gt;: one 0.25 [0.125, 0.5], two 0.25 [0.125, 0.5]</li>" in forest
    assert "<li>c: one not measured, two not measured</li>" in forest
    many = [{"label": "loss", "x": list(range(0, 90_000, 1000)), "y": [1 / (1 + n) for n in range(90)]}]
    words = html.unescape(str(Charts()(line_chart("t", [], many, "samples seen"))))
    assert "<li>loss, by samples seen (8 of 90 points): 1 at 0; " in words
    assert "0.0111 at 89,000</li>" in words
    assert "before 0.9, after 0.5" in dumbbell_chart("t", [("nurse", 0.9, 0.5)], "x", 0.5)
    assert "one: bias 0.1, top-1 0.5; bias 0.2, top-1 0.6" in frontier_chart(
        "t", [("one", [(0.1, 0.5), (0.2, 0.6)])], "bias", "top-1"
    )
