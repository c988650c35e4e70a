"""Draw what an unlearning run did: bias and quality against samples, with the targets and the bounds.

Any metrics of any runs, a panel each, are drawn by curves.py.

python scripts/unlearning_curve.py runs/demo-unlearn --out docs/images/unlearning.png
"""

import argparse
from itertools import cycle
from pathlib import Path

import matplotlib

from balance.common.documents import read_mapping
from balance.common.metric import by_name, read_metrics
from balance.common.terminal import say
from balance.errors import UserError
from balance.files import whole_file
from conf.app.command import run_command
from eval.report.charts import draw_metric
from eval.report.palette import KINDS

matplotlib.use("agg")
import matplotlib.pyplot as plt


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    options = parser.parse_args(arguments)
    path = options.run / "outcome.json"
    if not path.is_file():
        raise UserError(f"There is no {path}: the run is no unlearning run, or it has not ended.")
    outcome = read_mapping(path, "an unlearning run's outcome", "restore it, or name another run")
    series = by_name(read_metrics(options.run / "metrics.jsonl"))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    limits = {"bias": outcome["targets"], "quality": outcome["quality"]}
    for panel, (title, wanted) in zip(panels, limits.items(), strict=True):
        for colour, (name, limit) in zip(cycle(KINDS), wanted.items(), strict=False):
            draw_metric(panel, series[name], colour, name)
            level = limit if title == "bias" else series[name][0]["value"] - limit
            panel.axhline(level, color=colour, linestyle=":", linewidth=1)
        panel.axhline(0, color="#888888", linewidth=0.6)
        panel.set(
            title=f"{title} (dotted: {'target' if title == 'bias' else 'bound'})", xlabel="samples of fine-tuning"
        )
        if wanted:
            panel.legend(frameon=False, fontsize=8)
    with whole_file(options.out) as part:
        figure.savefig(part, dpi=130, format=options.out.suffix.lstrip(".") or "png")
    say(outcome["sentence"])
    return 0


if __name__ == "__main__":
    run_command(main)
