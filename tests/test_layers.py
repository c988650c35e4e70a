"""Dependencies point one way: conf puts together what eval, models and balance do; none of these looks upward.

Nor does any file import one that imports it, however far around.
"""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGES = ("balance", "models", "eval", "conf", "scripts", "train", "tests")
MAY_IMPORT = {
    "balance": {"balance"},
    "models": {"models", "balance.errors", "balance.files", "balance.common", "balance.progress", "balance.stream"},
    "eval": {"eval", "models", "balance"},
    "conf": {"conf", "eval", "models", "balance"},
}


def imported(path: Path) -> set[str]:
    """Modules of the project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_downward_only(package: str, root: Path) -> None:
    files = sorted((root / package).rglob("*.py"))
    assert len(files) > 5
    upward = [
        f"{path.relative_to(root)}: {name}"
        for path in files
        for name in imported(path)
        if not any(f"{name}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[package])
    ]
    assert upward == []


def test_what_a_model_is_knows_nothing_of_its_training(root: Path) -> None:
    files = [path for path in (root / "models").rglob("*.py") if "training" not in path.parts]
    assert [path.name for path in files if any(name.startswith("models.training") for name in imported(path))] == []


def test_no_file_imports_one_that_imports_it(root: Path) -> None:
    """Imports inside functions count, and those for the type checker alone."""
    files = [path for package in MAY_IMPORT for path in (root / package).rglob("*.py")]
    modules = {".".join(path.relative_to(root).with_suffix("").parts): path for path in files}
    graphlib.TopologicalSorter({name: imported(path) & modules.keys() for name, path in modules.items()}).prepare()
