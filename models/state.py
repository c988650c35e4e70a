"""All that a run needs to go on, gathered from the parts that know it: for a checkpoint, and back from one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from balance.errors import UserError
from models.checkpoint import list_checkpoints, load_checkpoint, rng_state, set_rng_state
from models.processes import Processes


class Stateful(Protocol):
    """What can be saved and restored."""

    def state_dict(self) -> Mapping[str, Any]:
        """Plain values and tensors."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from what `state_dict` gave."""


class RunState:
    """The state of a run over all processes.

    Args:
        shared: parts that are equal on all processes, by name, such as the model.
        own: parts of which each process has its own, such as what it has accepted. torch's generators are always kept.
        facts: plain values that are stored and not restored, such as the model's configuration.
        plan: hash of the data and plan; a checkpoint of another plan is refused.
        processes: those that train together.
    """

    def __init__(
        self,
        shared: Mapping[str, Stateful],
        own: Mapping[str, Stateful],
        facts: Mapping[str, Any],
        plan: str,
        processes: Processes,
    ) -> None:
        self.shared, self.own, self.facts, self.plan, self.processes = shared, own, facts, plan, processes

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors; all processes must call this together."""
        mine = {name: part.state_dict() for name, part in self.own.items()} | {"rng": rng_state()}
        ranks = self.processes.gather(mine)
        shared = {name: part.state_dict() for name, part in self.shared.items()}
        return {**self.facts, **shared, "plan": self.plan, "ranks": ranks}

    def load_state_dict(self, state: Mapping[str, Any], where: str = "The checkpoint") -> None:
        """Go on from a state.

        Raises:
            UserError: it belongs to another plan, or to another number of processes.
        """
        if state["plan"] != self.plan:
            raise UserError(
                f"{where} was trained under another plan ({state['plan']}, now {self.plan}): the data, its "
                "attributes or the balance settings have changed; restore them, or start a new run."
            )
        ranks = state["ranks"]
        if len(ranks) != self.processes.world:
            raise UserError(
                f"{where} was written by {len(ranks)} processes, and this run has {self.processes.world}: the order "
                f"of samples and the random states depend on that; resume with {len(ranks)}, or start a new run."
            )
        missing = [name for name in self.shared if name not in state]
        if missing:
            raise UserError(
                f"{where} holds no {' and no '.join(missing)}: it was written with other settings (fsdp, model.ema, "
                "precision); resume with the same, or start a new run from its weights by model.init_from."
            )
        for name, part in self.shared.items():
            part.load_state_dict(state[name])
        mine = ranks[self.processes.rank]
        for name, part in self.own.items():
            part.load_state_dict(mine[name])
        set_rng_state(mine["rng"])

    def resume(self, folder: Path) -> Path | None:
        """Go on from the newest checkpoint in a folder; None, and nothing done, if there is none."""
        saved = list_checkpoints(folder)
        if not saved:
            return None
        self.load_state_dict(load_checkpoint(saved[-1]), str(saved[-1]))
        return saved[-1]
