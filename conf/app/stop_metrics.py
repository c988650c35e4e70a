"""Which metrics a run is steered by: its stopping rule and its best checkpoint."""

from conf.app.schema import Config
from models.training.stopping import verdicts


def named_metrics(config: Config) -> list[tuple[str, str]]:
    """(where, metric) of all metrics that a run is steered by, but for the verdicts that it makes itself."""
    named = [(f"stop.targets.{name}", name) for name in config.stop.targets]
    named += [(f"stop.quality.{name}", name) for name in config.stop.quality]
    best = config.checkpoint.best
    if best is not None and best not in verdicts(config.stop.targets, config.stop.quality):
        named.append((f"checkpoint.best={best}", best))
    return named
