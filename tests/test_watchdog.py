"""Ranks that wait for one which no longer moves say who it is, and end; those that wait for work in progress don't."""

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest
import torch.distributed as dist

import train
from balance.common.pulse import Pulse
from balance.progress import ProgressLine
from conf.app.cli import compose
from models.training.watchdog import QUIET, Watchdog
from tests.launching import before_step, tiny_overrides
from tests.tiny import people_shards
from tests.together import together

TIMEOUT = 600.0


class Job:
    """Ranks that share a store and a clock, without processes."""

    def __init__(self, world: int) -> None:
        self.now, self.said, self.ended = 0.0, list[str](), set[int]()
        store = dist.HashStore()
        self.pulses = [Pulse() for _ in range(world)]
        self.dogs = [
            Watchdog(
                rank,
                world,
                store,
                TIMEOUT,
                pulse=self.pulses[rank],
                clock=lambda: self.now,
                speak=self.said.append,
                end=lambda rank=rank: self.ended.add(rank),
            )
            for rank in range(world)
        ]
        self.stopped: set[int] = set()

    def let_pass(self, seconds: float, moving: tuple[int, ...] = ()) -> None:
        """Time in which some ranks move, and all that are neither stopped nor ended exchange messages."""
        end = self.now + seconds
        while self.now < end:
            self.now += self.dogs[0].every
            for rank in moving:
                self.pulses[rank].beat()
            here = [dog for dog in self.dogs if dog.rank not in self.stopped | self.ended]
            for dog in here:
                dog.exchange()
            for dog in here:
                dog.judge()


def test_a_stopped_rank_is_named_after_a_minute_and_the_job_ends_after_the_timeout() -> None:
    job = Job(3)
    job.let_pass(120, moving=(0, 1, 2))
    job.pulses[1].beat("step 7")
    job.let_pass(5)
    job.stopped = {1}
    job.pulses[0].waiting = job.pulses[2].waiting = True
    job.let_pass(QUIET - 15)
    assert job.said == []
    job.let_pass(20)
    (sentence,) = job.said
    assert sentence.startswith("No rank has made progress for 1:0")
    assert f"2 of 3 wait for rank 1 (process {os.getpid()} on " in sentence
    assert "; step 7), not answering." in sentence
    job.let_pass(TIMEOUT - 120)
    assert not job.ended
    assert len(job.said) == 4  # after 1, 2, 4 and 8 minutes
    job.let_pass(60)
    assert job.ended == {0, 2}
    assert "distributed.timeout" in job.said[-1]
    assert "resume=true" in job.said[-1]


def test_a_rank_that_is_stuck_though_its_process_runs_is_named() -> None:
    job = Job(2)
    job.pulses[1].beat("annotate")
    job.pulses[0].waiting = True
    job.let_pass(QUIET + 20)
    assert "1 of 2 wait for rank 1 " in job.said[0]
    assert "; annotate), busy without progress." in job.said[0]


def test_the_first_rank_can_be_the_one_that_is_awaited() -> None:
    job = Job(2)
    job.let_pass(60, moving=(0, 1))
    job.stopped, job.pulses[1].waiting = {0}, True
    job.let_pass(QUIET + 20)
    assert "1 of 2 wait for rank 0 " in job.said[0]


@pytest.mark.parametrize("moving", [(0,), (1,)])
def test_nobody_complains_while_one_rank_works_for_all(moving: tuple[int, ...]) -> None:
    """As the first does that labels shards, for hours."""
    job = Job(2)
    job.pulses[1 - moving[0]].waiting = True
    job.let_pass(10 * TIMEOUT, moving)
    assert job.said == []
    assert not job.ended


def test_a_rank_that_moves_asks_nothing_of_the_others() -> None:
    """With a thousand ranks the store would otherwise be busy with that alone."""
    job = Job(3)
    job.let_pass(60, moving=(0,))
    assert set(job.dogs[0]._seen) == {0}
    assert set(job.dogs[1]._seen) == {0, 1, 2}


def test_long_work_of_all_ranks_at_once_is_no_standstill() -> None:
    """As compiling is: no rank waits for another."""
    job = Job(2)
    job.let_pass(2 * TIMEOUT)
    assert job.said == []
    assert not job.ended


def test_a_store_that_no_longer_answers_is_said() -> None:
    job = Job(2)
    job.let_pass(60, moving=(0, 1))
    job.pulses[1].waiting = True
    for _ in range(100):
        job.now += 10
        job.dogs[1].judge()  # its other thread hangs
    assert "the process that started torch.distributed's store does not answer" in job.said[0]
    assert job.ended == {1}


def test_every_progress_line_counts_as_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = Pulse()
    monkeypatch.setattr("balance.progress.PULSE", pulse)
    with ProgressLine("annotate", 2, shown=False) as line:
        line.update(1)
        line.update(1)
    assert (pulse.beats, pulse.doing) == (3, "annotate")


def stop_in_step(task: list[str], said: str) -> int:
    """Train; the second rank is stopped in its fifth step, as by a debugger or a hypervisor."""
    with Path(said).open("w", buffering=1) as out, contextlib.redirect_stdout(out):
        if os.environ["RANK"] == "1":
            with before_step(5, lambda: os.kill(os.getpid(), signal.SIGSTOP)):
                return train.main(compose(task))
        return train.main(compose(task))


@pytest.mark.slow
def test_a_process_that_is_stopped_ends_the_others(tmp_path: Path) -> None:
    people_shards(tmp_path / "train", [40, 40])
    people_shards(tmp_path / "eval", [30])
    more = ("name=a", "data.batch_size=8", "balance=none", "distributed.timeout=0.15")
    task = tiny_overrides(tmp_path, tmp_path / "runs", *more)
    # The helper kills the one that is stopped after the other has ended.
    assert together(2, stop_in_step, task, str(tmp_path / "said"), linger=1) == [1, None]
    said = (tmp_path / "said").read_text()
    assert "1 of 2 wait for rank 1 (process " in said
    assert re.search(r"; step \d\), not answering\.", said)
