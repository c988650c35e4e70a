"""Settings of the C runtime reach it: OpenMP's before torch is loaded, and freed memory is kept."""

import os
import re
import subprocess
import sys

import pytest

from conf.app.runtime import SPINS
from tests.conftest import ROOT

FAULTS = """
import resource
{runtime}
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25_000_000)  # 100 MB, more than glibc keeps of itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), *(faults() for _ in range(20)))
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_", "MALLOC_", "GLIBC_"))}
    given = {**kept, **environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=given, capture_output=True, text=True, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["train", "scripts.evaluate", "scripts.zoo", "scripts.interpolate"])
@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP")
def test_openmp_is_told_before_torch_loads_it(entry: str) -> None:
    shown = python(f"import {entry}", OMP_DISPLAY_ENV="VERBOSE").stderr
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", shown)) == {SPINS}


def test_what_a_user_has_set_stays() -> None:
    code = "import conf.app.runtime, os; print(os.environ['GOMP_SPINCOUNT'], conf.app.runtime.keep_freed_memory())"
    assert python(code, GOMP_SPINCOUNT="7", MALLOC_ARENA_MAX="2").stdout.split() == ["7", "False"]


@pytest.mark.slow
def test_freed_memory_is_taken_again() -> None:
    if python("import conf.app.runtime; print(conf.app.runtime.keep_freed_memory())").stdout.strip() != "True":
        pytest.skip("not glibc")
    pages = 100_000_000 / os.sysconf("SC_PAGE_SIZE")
    for runtime, kept in (("import conf.app.runtime", True), ("", False)):
        *_, last = map(int, python(FAULTS.format(runtime=runtime)).stdout.split())
        assert (last < pages / 50) is kept
