"""Paired comparison of models against scipy and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from balance.errors import UserError
from eval.signed_rank import match, wilcoxon
from scripts.compare_models import main


def test_six_pairs_of_one_sign_have_the_smallest_p_of_two_in_sixty_four() -> None:
    found = wilcoxon([2, 3, 4, 5, 6, 7], [1, 1, 1, 1, 1, 1])
    assert found.statistic == 0
    assert found.p == pytest.approx(2 / 64)
    assert found.n == 6
    assert found.median_difference == 3.5


def test_it_is_scipys_and_turns_round() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 15))
    assert wilcoxon(a, b).p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert wilcoxon(b, a).median_difference == pytest.approx(-wilcoxon(a, b).median_difference)
    assert wilcoxon(a, a).p == 1


def test_pairs_are_matched_by_name() -> None:
    assert match({"x": 1, "y": 2, "z": 3}, {"z": 4, "y": 5}) == ([2, 3], [5, 4])
    with pytest.raises(UserError, match="in common"):
        match({"x": 1}, {"y": 2})
    with pytest.raises(UserError, match="equally many"):
        wilcoxon([1, 2], [1])
    with pytest.raises(UserError, match="not finite"):
        wilcoxon([1, float("nan")], [1, 2])


def write(folder: Path, values: dict[str, float]) -> Path:
    folder.mkdir()
    rows = [json.dumps({"name": name, "value": value}) for name, value in values.items()]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def test_the_command_pairs_figures_or_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "a", {f"ab/difference[{c}]": 0.1 * (1 + i) for i, c in enumerate("abcdef")})
    two = write(tmp_path / "b", {f"ab/difference[{c}]": 0.0 for c in "abcdef"})
    main([f"first={one}", f"second={two}", "metric=difference"])
    assert "0.03125" in capsys.readouterr().out
    first = [write(tmp_path / f"first{i}", {"rb": float(i)}) for i in range(7)]
    second = [write(tmp_path / f"second{i}", {"rb": i + 0.5}) for i in range(7)]
    main([f"first=[{','.join(map(str, first))}]", f"second=[{','.join(map(str, second))}]", "metric=rb"])
    assert "-0.5000" in capsys.readouterr().out
    with pytest.raises(UserError, match="matched one to one"):
        main([f"first={one}", f"second=[{two},{two}]"])
    with pytest.raises(UserError, match="No figure has 'x'"):
        main([f"first={one}", f"second={two}", "metric=x"])
