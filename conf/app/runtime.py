"""Settings for computing on a CPU. Import it before torch: OpenMP reads its own once, as torch loads.

Waiting: at the end of every parallel loop GNU OpenMP's threads spin for milliseconds until the last is done. Where a
neighbour holds a core (a loader worker is one), the thread that all wait for does not get it: two threads become slower
than one. After 2,000 turns, some microseconds, a thread here goes to sleep and makes room.

Memory: glibc gives freed blocks of more than 32 MB back to the system and takes them anew at the next step, page by
page. A network needs the same blocks for every batch, so those of up to 256 MB are kept. Not more: aligned blocks leave
gaps (glibc before 2.38), and one size can take its place several times before it is found again.

GPUs: a process that computes on the CPU hides them from itself, see `hide_gpus`.

What a user has set stays. Figures: docs/benchmarks.md.
"""

import ctypes
import os

SPINS = "2000"
KEPT = 2**28  # bytes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks for reuse; whether it does, as other C libraries have no such setting."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, KEPT) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def hide_gpus() -> None:
    """Keep torch in this process, and those it starts, from the machine's GPUs; call it before torch looks for one.

    An optimiser's step on the CPU would start CUDA all the same (it asks whether a graph is being captured), which
    takes seconds and hundreds of MB of a GPU that another run may need, and forks of the process could then use none.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


keep_freed_memory()
