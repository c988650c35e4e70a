"""Lay out the W&B project of a run for reading: summary first, then bias against quality, each evaluator, and training.

`python scripts/wandb_workspace.py run=runs/mine [entity=...] [project=...] [name=...] [dry_run=true]` saves a workspace
view and prints its address; `dry_run=true` prints what it would hold. Needs `pip install -e '.[dashboards]'` and a
login.
"""

from pathlib import Path
from typing import Any

from balance.errors import UserError
from conf.app.command import run_command, split_options
from eval.report.rundata import RunData, load_run
from models.training.wandb_mirror import server, server_trouble

DEFAULTS = {"run": "", "entity": "", "project": "", "name": "Counterbalance", "dry_run": False}


def main(arguments: list[str]) -> int:
    """Save the workspace, or print it."""
    options, rest = split_options(arguments, DEFAULTS)
    if rest or not options["run"]:
        print(__doc__)
        return 2
    try:
        import wandb
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError("Workspaces need one more package: pip install -e '.[dashboards]'.") from error
    run = load_run(Path(options["run"]))
    sections = layout(run)
    if options["dry_run"]:
        for title, panels in sections:
            print(f"{title}: {', '.join(panel['title'] for panel in panels)}")
        return 0
    track = run.config["track"]
    entity = options["entity"] or track.get("entity")
    if not entity:
        raise UserError("Whose workspace it is must be given: entity=<W&B user or team>.")
    if trouble := server_trouble():
        raise UserError(f"The W&B server {server()} {trouble}; a workspace is saved there.")
    workspace = ws.Workspace(
        entity=entity,
        project=options["project"] or track["project"],
        name=options["name"],
        sections=build(sections),
    )
    try:
        workspace.save()
    except wandb.Error as error:
        raise UserError(f"The W&B server {server()} did not save the workspace: {error}") from error
    print(f"Workspace: {workspace.url}")
    return 0


def layout(run: RunData) -> list[tuple[str, list[dict[str, Any]]]]:
    """Titles of sections with their panels, as plain values: `title`, `x` and `y`, metrics as the run logged them."""
    sections = [
        ("Summary", [_line(label, [name, f"{name}.low", f"{name}.high"]) for label, name in run.headline.items()])
    ]
    ways = {way: [n for n in run.headline.values() if run.direction(n) == way] for way in ("bias", "quality")}
    if ways["bias"] and ways["quality"]:
        quality = ways["quality"][0]
        scatters = [{"title": f"{name} against {quality}", "x": name, "y": [quality]} for name in ways["bias"]]
        sections.append(("Bias against quality", scatters))
    by_evaluator: dict[str, dict[str, list[str]]] = {}
    for name in run.evaluated():
        evaluator, _, metric = name.partition("/")
        by_evaluator.setdefault(evaluator, {}).setdefault(metric.split("[")[0], []).append(name)
    for evaluator, families in by_evaluator.items():
        sections.append((evaluator, [_line(title.replace("_", " "), names) for title, names in families.items()]))
    for prefix, title in (("accepted/", "Accepted pairs against the plan"), ("train/", "Training")):
        names = [name for name in run.series if name.startswith(prefix)]
        sections.append((title, [_line(name.removeprefix(prefix).replace("_", " "), [name]) for name in names]))
    return [(title, panels) for title, panels in sections if panels]


def build(sections: list[tuple[str, list[dict[str, Any]]]]) -> list[Any]:
    """The sections as wandb-workspaces has them."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def panel(one: dict[str, Any]) -> Any:
        if one["x"] == "samples":
            return wr.LinePlot(title=one["title"], x="samples", y=one["y"])
        return wr.ScatterPlot(title=one["title"], x=wr.SummaryMetric(one["x"]), y=wr.SummaryMetric(one["y"][0]))

    return [
        ws.Section(name=title, panels=[panel(one) for one in panels], is_open=number < 2)
        for number, (title, panels) in enumerate(sections)
    ]


def _line(title: str, names: list[str]) -> dict[str, Any]:
    return {"title": title, "x": "samples", "y": names}


if __name__ == "__main__":
    run_command(main, __doc__)
