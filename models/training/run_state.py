"""All that a run needs to go on, gathered from the parts that know it: for a checkpoint, and back from one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from balance.errors import UserError
from models.checkpoint import load_checkpoint, newest_checkpoint, rng_state, set_rng_state
from models.training.distributed import Processes
from models.weights import one_line

ALWAYS = ("model", "tracker", "stream", "clock", "keeper", "stopper", "plan", "ranks")
"""What every checkpoint of a run holds."""
BY_SETTING = {"ema": "model.ema", "optimizer_by_name": "fsdp=true", "scaler": "precision=fp16"}
"""What a checkpoint holds only under a setting."""


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
            UserError: it belongs to another plan, to another number of processes, or to other settings.
        """
        check_parts(state, {*self.shared, "plan", "ranks"}, self.processes.world, where)
        if state["plan"] != self.plan:
            raise UserError(
                f"{where} was trained under another plan ({state['plan']}, now {self.plan}): the data, its "
                "attributes or the balance settings have changed; restore them, or start a new run."
            )
        for name, part in self.shared.items():
            _restore(name, part.load_state_dict, state[name], where)
        mine = state["ranks"][self.processes.rank]
        for name, part in self.own.items():
            _restore(name, part.load_state_dict, mine.get(name, {}), where)
        _restore("random state", set_rng_state, mine.get("rng", {}), where)

    def resume(self, folder: Path) -> Path | None:
        """Go on from the newest checkpoint in a folder that is whole; None, and nothing done, if there is none."""
        newest, damaged = newest_checkpoint(folder)
        if newest is None:
            return None
        for sentence in damaged:
            self.processes.say(f"note: {sentence} The run goes on from the one before, {newest.name}.")
        self.load_state_dict(load_checkpoint(newest), str(newest))
        return newest


def check_newest(folder: Path, settings: Mapping[str, bool], world: int) -> None:
    """Check that a run can go on from the newest checkpoint in a folder, before any work is done.

    Reads what the file holds, not its tensors. What needs the model or the plan is checked when it is restored.

    Args:
        folder: of checkpoints; nothing is checked where there is none.
        settings: for each part in `BY_SETTING` whether this run has it.
        world: number of processes.

    Raises:
        UserError: it can't.
    """
    newest, _ = newest_checkpoint(folder)
    if newest is not None:
        optimizer = "optimizer_by_name" if settings["optimizer_by_name"] else "optimizer"
        wanted = {*ALWAYS, optimizer, *(part for part, used in settings.items() if used)}
        check_parts(load_checkpoint(newest, mmap=True), wanted, world, str(newest))


def check_parts(state: Mapping[str, Any], wanted: set[str], world: int, where: str) -> None:
    """Check that a checkpoint holds what a run goes on with.

    Args:
        state: of the checkpoint.
        wanted: the parts of this run.
        world: number of processes.
        where: the checkpoint's name in messages.

    Raises:
        UserError: it was written under other settings, by another version, or by another number of processes.
    """
    instead = f"start a new run from its weights by model.init_from={where}"
    for part, setting in BY_SETTING.items():
        # A scaler that is no longer needed is no loss; an average that ended unsaid would be.
        if part in wanted and part not in state:
            raise UserError(f"{where} was written without {setting}; resume without it, too, or {instead}.")
        if part in state and part not in wanted and part != "scaler":
            raise UserError(f"{where} was written with {setting}; resume with it, too, or {instead}.")
    lacking = [part for part in sorted(wanted) if part not in state]
    if lacking:
        raise UserError(
            f"{where} holds no {' and no '.join(lacking)}: another version of the project wrote it, and this one can't "
            f"go on exactly; {instead}."
        )
    ranks = state["ranks"]
    if len(ranks) != world:
        raise UserError(
            f"{where} was written by {len(ranks)} processes, and this run has {world}: the order of samples and the "
            f"random states depend on that; resume with {len(ranks)}, or start a new run."
        )


def _restore(name: str, load: Callable[[Any], Any], state: Any, where: str) -> None:
    try:
        load(state)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:  # torch's: shapes and names
        raise UserError(
            f"{where}: its {name} does not fit this run ({type(error).__name__}: {one_line(error)}); resume with the "
            f"settings and the version that wrote it, or start a new run from its weights by model.init_from={where}."
        ) from error
