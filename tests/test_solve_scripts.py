"""The commands: attribute files to a saved plan, and the frontier."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from balance import Problem, solve
from balance.m4.cells import Cells
from balance.m4.planfile import load_plan
from scripts.solve import describe
from tests.commands import start


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rows")
    sizes = ("--rows", "4000", "--rows-per-file", "1500", "--patterns", "500", "--concepts", "70", "--workers", "1")
    made = start("scripts/make_attribute_rows.py", "--out", str(out), *sizes)
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "m4.yaml"
    file.write_text("name: m4\nmethod: dual\ntarget: {attribute0: 0.5}\nkeep: 0.5\n")
    return file


def test_files_to_plan(rows: Path, settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    group = f"balance={settings}"
    done = start("scripts/solve.py", f"attributes={rows}", f"out={out}", group, "balance.keep=0.4", "threads=1")
    assert done.returncode == 0, done.stderr
    plan = load_plan(out)
    assert plan.keep == 0.4
    assert plan.cells.total == 4000
    assert plan.gap <= 1e-6
    assert "4,000 samples" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("attribute=x", "out=y"), "did you mean 'attributes'"),
        (("attributes=x", "out=y", "balance.kep=1"), "did you mean 'balance.keep'"),
        (("attributes=x",), "out is missing"),
        (("attributes=x", "out=y", "balance=m5"), "there is no m5.yaml"),
        (("attributes=nowhere", "out=y"), "no attribute files at nowhere"),
    ],
)
def test_typos_are_answered(arguments: tuple[str, ...], sentence: str) -> None:
    done = start("scripts/solve.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_frontier(rows: Path, settings: Path, tmp_path: Path) -> None:
    done = start("scripts/frontier.py", f"attributes={rows}", f"out={tmp_path}", f"balance={settings}")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "frontier.csv").open() as file:
        points = list(csv.DictReader(file))
    assert len(points) == 60
    assert float(points[-1]["rb"]) > float(points[0]["rb"])
    assert (tmp_path / "frontier.svg").stat().st_size > 1000


def test_a_plan_of_rare_concepts_has_no_row_of_nothing() -> None:
    cells = Cells.from_arrays([[1.0], [0.0]], [[1], [1]], [6, 14], ["woman"], ["nurse"])
    plan = solve(cells, Problem(target={"woman": 0.5}, keep=0.5, min_concept_samples=30))
    rows = [str(cell) for column in describe(plan).columns for cell in column.cells]
    assert "worst concept" not in rows
    assert not [cell for cell in rows if "None" in cell]
    assert "0 of 1" in rows
