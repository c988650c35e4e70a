"""The documentation holds what it says: commands run, links lead somewhere, keys and messages exist."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conf.app.cli import compose
from tests.conftest import ROOT
from tests.docs_commands import (
    LAUNCHERS,
    Command,
    commands,
    copy_tree,
    in_process,
    make_runs,
    make_workspace,
    shortened,
)

COMMANDS = list(commands())
RUNS = {name for one in COMMANDS for name in re.findall(r"runs/([\w-]+)", one.text)} | {"mine"}
# Weights or data that no test can fetch, or places left for the reader to fill: composed and checked, but not run.
ELSEWHERE = (
    "pretrained=",
    "laion",
    "hf-hub:",
    "=hf:",
    "s3://",
    "../shared/data",
    "experiment=lite",
    "_lite",
    "...",
    "<",
    " -m ",
)
ELSEWHERE += ("from=downloads", "pairs=pairs.csv")  # stimuli that their authors alone pass on, and faces with landmarks
# Beside their own settings these take keys of a run.
TAKES_OVERRIDES = ("train.py", *(f"scripts/{name}.py" for name in ("annotate", "audit", "evaluate", "export", "zoo")))
# Long by their nature, with tests of their own.
TESTED_APART = (
    "scripts/label_check.py",
    "scripts/label_filter.py",
    "scripts/bench_",
    "scripts/zoo",
    "scripts/make_attribute_rows.py",
    "scripts/curves.py",
)


def test_the_pages_are_found() -> None:
    assert len(COMMANDS) > 15
    assert {"README.md", "docs/launching.md"} <= {one.page for one in COMMANDS}


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site" / "index.html").is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_what_a_newcomer_reads_first_can_be_typed_as_it_stands(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.index("\nmake demo\n") < text.index("\nsource .venv/bin/activate\n") < text.index("\npython ")
    for fact in ("five minutes on 2 cores", "6 GB", "Python 3.11 or newer"):
        assert fact in text.replace("\n", " ")
    named = re.findall(r"data\.train=(\S+)", text)
    assert set(named) == {"demo-data/train"}, "what make demo makes"


def test_what_the_tests_use_is_installed_with_them() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras.pop("dev")
    assert everything == f"counterbalance[{','.join(sorted(extras))}]"
    assert re.search(r"^\$\(VENV\)/\.installed-dev: EXTRAS = dev$", (ROOT / "Makefile").read_text(), re.M)


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http", "mailto")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    folders = [ROOT / part for part in ("balance", "models", "eval", "conf")]
    sources = [ROOT / "train.py", *(path for folder in folders for path in folder.rglob("*.py"))]
    # Strings that Python joins across lines read as one; what is filled in stands for anything.
    code = " ".join(path.read_text(encoding="utf-8") for path in sources)
    code = re.sub(r'"\s*f?"', "", re.sub(r"\s+", " ", code))
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    others = ("operator torchvision", "No module named")
    missing = [
        part
        for row in re.findall(r"^\| (`.*?)(?<!\\) \|", page, re.M)
        for message in re.findall(r"`([^`]+)`", row)
        if not message.startswith(others)
        for part in (piece.strip() for piece in message.split("..."))
        if len(part) > 4 and part not in code
    ]
    assert missing == []


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small shards and a run under every name that the pages use."""
    folder = make_workspace(tmp_path_factory.mktemp("docs"))
    make_runs(folder, sorted(RUNS - {"attributes", "zoos"}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: f"{one.page}: {one.text[:80]}")
def test_every_command_runs(command: Command, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERBALANCE_DATA", str(tmp_path / "none"))  # public sets: not here
    words = command.words()
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables of the environment
        words = words[1:]
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for named in re.findall(r"\[([\w,]+)\]", command.text):
            assert set(named.split(",")) <= set(extras)
    elif words[0] == "wandb":
        assert all((ROOT / word).exists() for word in words[2:] if word.endswith(".yaml"))
    elif command.text.startswith(LAUNCHERS):
        check_overrides(words[words.index("train.py") + 1 :])
    else:
        assert words[0] == "python", f"teach this test to run {command.text!r}"
        run(words[1], [fill_in(word) for word in words[2:]], command, workspace, tmp_path)


def run(script: str, arguments: list[str], command: Command, workspace: Path, tmp_path: Path) -> None:
    """Run a Python command of the project in a copy of the workspace."""
    if script == "-m":
        return  # tools with tests of their own
    assert (ROOT / script).is_file()
    if script.startswith(TESTED_APART):
        return
    if any(part in command.text for part in ELSEWHERE):
        check_settings(script, arguments)
        return
    folder = tmp_path / "here"
    copy_tree(workspace, folder)
    for word in arguments:
        if word.startswith("eval.root="):  # must be there; what it lacks is skipped
            (folder / word.partition("=")[2]).mkdir(parents=True, exist_ok=True)
    # Labels belong to shards as they lie.
    if "attributes.files=attributes" in arguments or script == "scripts/subset.py":
        in_process(folder, "scripts/annotate.py", ["data.train=shards", "attributes=captions", "out=attributes"])
    if script == "train.py" and "resume=true" not in arguments:
        arguments = shortened(arguments)
        named = any(word.startswith("name=") for word in arguments) and "overwrite=true" not in arguments
        arguments += ["overwrite=true"] if named else []
    if script == "scripts/wandb_workspace.py":
        arguments = [*(word for word in arguments if word != "dry_run=true"), "dry_run=true"]
    status, heard = in_process(folder, script, arguments)
    assert status == 0, f"{command.page}: {command.text}\n{heard[-3000:]}"


def check_settings(script: str, arguments: list[str]) -> None:
    """Check that a command that can't be run here has settings that its script knows."""
    known = runpy.run_path(str(ROOT / script), run_name="looked at")
    given = [word for word in arguments if word.partition("=")[0] not in known.get("OPTIONS", {})]
    if script in TAKES_OVERRIDES:
        check_overrides(given)
    else:
        assert given == [], f"{script} has no setting {given[0]}"
    for word in arguments:
        if word.startswith("source="):
            assert word.partition("=")[2] in known["SOURCES"]


def check_overrides(arguments: list[str]) -> None:
    """Compose the configuration that a command gives, with shards where it leaves them to the reader."""
    wanted = [word for word in arguments if word != "..." and not word.startswith(("-", "$"))]
    here = [re.sub(r"^(eval\.root)=<.*>$", r"\1=.", word) for word in wanted]  # a folder that must be there
    words = [re.sub(r"=(\.\.\.|<.*>)$", "=shards", word) for word in here]
    if "-m" in arguments:  # of a sweep's values the first
        words = [re.sub(r"^([\w.]+=[^\[{,]+),.*", r"\1", word) for word in words]
    compose(words)


def fill_in(word: str) -> str:
    """Shards that pages number to a hundred: the workspace has two."""
    return re.sub(r"\{0+\.\.0*\d+\}", "{00000..00001}", word)
