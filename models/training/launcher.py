"""What the launcher of a run was asked for: a run that is alone, and was not meant to be, says so."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

SIZES = {
    "WORLD_SIZE": "torch.distributed's environment",
    "OMPI_COMM_WORLD_SIZE": "Open MPI",
    "PMI_SIZE": "MPI",
    "MV2_COMM_WORLD_SIZE": "MVAPICH",
    "SLURM_STEP_NUM_TASKS": "srun",
}
"""Variables in which launchers pass on how many processes they started, and who sets them."""
REMEDY = "start them with: torchrun --nproc_per_node=<processes> train.py ..."


def launcher_notes(world: int, environment: Mapping[str, str], parent: Sequence[str] | None = None) -> list[str]:
    """Sentences on processes that the launcher was asked for and that do not train together.

    Args:
        world: number of processes that do.
        environment: such as `os.environ`.
        parent: command of the process that started this one; None looks it up.
    """
    for name, launcher in SIZES.items():
        size = environment.get(name, "").strip()
        if size.isdecimal() and int(size) > world:
            return [
                f"{launcher} says {size} processes ({name}={size}), and {_together(world)}: each would train by "
                f"itself, in the same folder. If several were meant, {REMEDY}"
            ]
    if world > 1 or "ACCELERATE_MIXED_PRECISION" not in environment:  # every launcher of accelerate's sets it
        return []
    wanted = asked_of_accelerate(parent_command() if parent is None else parent)
    if wanted is None or wanted == 1:
        return []
    return [
        f"accelerate launch was asked for {wanted} processes, and this one trains alone: on CPUs it starts one, unless "
        f"--mpirun_hostfile names machines with MPI. There {REMEDY.replace('<processes>', str(wanted))}"
    ]


def _together(world: int) -> str:
    return "this one trains alone" if world == 1 else f"{world} train together"


def asked_of_accelerate(command: Sequence[str]) -> int | None:
    """The number of processes that an `accelerate launch` command, or the configuration file it reads, asks for.

    Returns:
        None if it is no such command or asks for none.
    """
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    words = _launch_arguments(command)
    if words is None:
        return None
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its usage, should it not like its own command
            options = launch_command_parser().parse_args(words)
        if options.num_processes is not None:
            return int(options.num_processes)
        if options.config_file is None and not os.path.isfile(default_config_file):
            return None
        return int(load_config_from_file(options.config_file).num_processes)
    except (Exception, SystemExit):  # a note is not worth more than the run; accelerate itself has read all this
        return None


def _launch_arguments(command: Sequence[str]) -> list[str] | None:
    for at, word in enumerate(command):
        name = Path(word).name
        if name == "accelerate-launch" or name == "accelerate.commands.launch":
            return list(command[at + 1 :])
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and command[at + 1 : at + 2] == ["launch"]:
            return list(command[at + 2 :])
    return None


def parent_command() -> list[str]:
    """The command of the process that started this one; empty where the system does not tell."""
    try:
        parent = psutil.Process().parent()
        return [] if parent is None else parent.cmdline()
    except psutil.Error:
        return []
