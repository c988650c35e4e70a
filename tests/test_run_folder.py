"""One run, one writer; a start that falls before the first step gives everything back, a killed one by the next."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import train
from balance.common.locks import drop, hold
from balance.common.writer import lock_path, only_writer
from balance.errors import UserError
from conf.app.cli import compose
from conf.app.run import STARTING, aside_of, check_run, not_begun
from conf.app.run_folder import RunFolder, run_folder
from conf.app.schema import Config
from models.training.distributed import Processes
from tests.launching import before_step, measured, run, tiny_overrides
from tests.test_faults import forked
from tests.together import apart


def config_of(runs: Path, *more: str) -> Config:
    return compose(["name=a", f"runs={runs}", *more])


def opened(runs: Path, *more: str) -> RunFolder:
    """The folder of a start; if nothing more is done with it, one that was killed."""
    folder = RunFolder(runs / "a")
    folder.open(config_of(runs, *more))
    return folder


def begun_run(runs: Path, content: str) -> Path:
    """A run that has made its first step."""
    (runs / "a/checkpoints").mkdir(parents=True)
    (runs / "a/config.yaml").write_text(content)
    (runs / "a/metrics.jsonl").write_text(content)
    return runs / "a"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------- one writer


def start(task: list[str]) -> int:
    try:
        return train.main(compose(task))
    except UserError as error:
        return 2 if "writes into" in str(error) or "exists; choose" in str(error) else 9


def test_of_two_starts_at_the_same_moment_one_trains(world: Path, tmp_path: Path) -> None:
    task = tiny_overrides(world, tmp_path, "name=a", "schedule.epochs=1")
    processes = [apart(start, task) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert sorted(process.exitcode or 0 for process in processes) == [0, 2]
    assert_no_row_is_double(tmp_path / "a")
    assert names(tmp_path) == ["a", "attributes"]


def assert_no_row_is_double(folder: Path) -> None:
    steps = [(row["name"], row["step"]) for row in measured(folder)]
    assert len(steps) == len(set(steps)) > 40


def test_a_run_that_is_alive_is_neither_gone_on_with_nor_overwritten(world: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def start_again() -> None:
        for more in ("resume=true", "overwrite=true"):
            with pytest.raises(UserError) as caught:
                run(world, tmp_path, "name=a", "schedule.epochs=1", more)
            told.append(str(caught.value))

    with before_step(3, start_again):
        assert run(world, tmp_path, "name=a", "schedule.epochs=1") == 0
    assert len(told) == 2
    assert all(f"Process {os.getpid()} on " in said and f"writes into {tmp_path / 'a'}; wait" in said for said in told)
    assert_no_row_is_double(tmp_path / "a")
    assert not lock_path(tmp_path / "a").exists()


def hold_until_killed(folder: Path, ready: int) -> None:
    with only_writer(folder):
        os.write(ready, b"x")
        signal.pause()


def test_the_kernel_releases_the_lock_of_one_that_is_killed(tmp_path: Path) -> None:
    read, write = os.pipe()
    with forked(lambda: hold_until_killed(tmp_path / "a", write)) as child:
        os.read(read, 1)
        with (
            pytest.raises(UserError, match=rf"Process {child} on .* \(since 2.* UTC\) writes into"),
            run_folder(config_of(tmp_path), Processes()),
        ):
            pytest.fail("two writers")
        assert not (tmp_path / "a").exists()
    assert lock_path(tmp_path / "a").exists()
    with run_folder(config_of(tmp_path), Processes()) as folder:
        assert folder.path.is_dir()


def test_a_holder_that_has_not_written_its_name_yet_is_told_too(tmp_path: Path) -> None:
    held = hold(lock_path(tmp_path / "a"))
    with pytest.raises(UserError, match=r"^Another process writes into"), only_writer(tmp_path / "a"):
        pytest.fail("two writers")
    drop(held)


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("balance.common.locks.fcntl.flock", unsupported)
    with run_folder(config_of(tmp_path), Processes()):
        assert "knows no locks; make sure that nothing else writes" in capsys.readouterr().out


def test_starts_without_a_name_take_different_ones(tmp_path: Path) -> None:
    configs = [compose([f"runs={tmp_path}"]) for _ in range(3)]
    with run_folder(configs[0], Processes()) as first, run_folder(configs[1], Processes()) as second:
        assert second.path.name == f"{first.path.name}-2"
    with run_folder(configs[2], Processes()) as third:
        assert third.path.name == f"{first.path.name}-3"


# ---------------------------------------------------------------------------- until the first step


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("conf.app.parts.prepare_stages", OSError(errno.ENOSPC, "No space left")),
        ("conf.app.parts.create_model", KeyboardInterrupt()),
        ("train.Trainer.evaluate", MemoryError()),
        ("train.Trainer.evaluate", KeyboardInterrupt()),
        ("train.Trainer.step", MemoryError()),
    ],
)
def test_a_start_that_falls_before_the_first_step_gives_the_name_back(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    def fall(*arguments: Any, **more: Any) -> None:
        assert not_begun(tmp_path / "a")
        raise error

    (tmp_path / "a").mkdir()
    (tmp_path / "a/slurm.log").write_text("of the launcher")
    monkeypatch.setattr(where, fall)
    with pytest.raises(type(error)) as caught:
        run(world, tmp_path, "name=a")
    assert names(tmp_path / "a") == ["slurm.log"]
    assert set(names(tmp_path)) <= {"a", "attributes"}
    if isinstance(error, KeyboardInterrupt):
        assert str(caught.value) == "Stopped before the first step; the name a is free again."


def test_a_run_that_falls_after_the_first_step_stays(world: Path, tmp_path: Path) -> None:
    def fall() -> None:
        raise MemoryError

    with pytest.raises(MemoryError), before_step(2, fall):
        run(world, tmp_path, "name=a")
    assert not not_begun(tmp_path / "a")
    assert (tmp_path / "a/metrics.jsonl").exists()


def test_w_and_b_ends_before_its_folder_goes(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[int] = []

    class Mirror:
        def __init__(self, folder: Path, *more: object) -> None:
            self.folder, self.run = folder, self
            (folder / "wandb").mkdir()

        id = "x"

        def abandon(self) -> None:
            assert self.folder.is_dir()
            finished.append(1)

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *a, **k: None

    monkeypatch.setattr("models.training.tracker.WandbMirror", Mirror)
    monkeypatch.setattr(train.Trainer, "evaluate", lambda trainer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(world, tmp_path, "name=a", "track=wandb")
    assert finished == [1]
    assert not (tmp_path / "a").exists()


def test_the_next_start_does_it_for_one_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/slurm.log").write_text("of the launcher")
    opened(tmp_path)
    (tmp_path / "a/plan").mkdir()
    (tmp_path / "a/metrics.jsonl").write_text("{}")
    folder = opened(tmp_path, "seed=7")
    assert names(tmp_path / "a") == [STARTING, "config.yaml", "slurm.log"]
    assert "seed: 7" in (tmp_path / "a/config.yaml").read_text()
    folder.give_back()
    assert names(tmp_path / "a") == ["slurm.log"]


def test_a_start_that_was_killed_can_be_gone_on_with(tmp_path: Path) -> None:
    opened(tmp_path, "seed=7")
    folder = opened(tmp_path, "seed=7", "resume=true")
    assert "seed: 7" in (tmp_path / "a/config.yaml").read_text()
    folder.begun()
    assert names(tmp_path / "a") == ["config.yaml"]
    with pytest.raises(UserError, match="exists; choose another name"):
        opened(tmp_path)


def test_a_damaged_mark_is_told(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "a" / STARTING).write_text("[")
    with pytest.raises(UserError, match=rf"{STARTING} is damaged.*delete the folder"):
        opened(tmp_path)
    assert (tmp_path / "a/config.yaml").exists()


# ---------------------------------------------------------------------------- a run that is to be overwritten


@pytest.mark.parametrize("killed", ["between the names", "in an empty folder", "while it prepared"])
def test_a_run_comes_back_when_the_start_that_was_to_overwrite_it_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], killed: str
) -> None:
    path = begun_run(tmp_path, "old")
    if killed == "while it prepared":
        opened(tmp_path, "overwrite=true")
        assert (aside_of(path) / "config.yaml").read_text() == "old"
    else:
        path.rename(aside_of(path))
        if killed == "in an empty folder":
            path.mkdir()
    with pytest.raises(UserError, match="exists; choose another name"):
        opened(tmp_path)
    assert f"{path} is back: a start that was to overwrite it was killed" in capsys.readouterr().out
    assert names(tmp_path) == ["a"]
    assert (path / "metrics.jsonl").read_text() == "old"


def test_one_that_was_killed_while_it_overwrote_may_overwrite_again_or_go_on(tmp_path: Path) -> None:
    path = begun_run(tmp_path, "old")
    opened(tmp_path, "overwrite=true", "seed=1")
    opened(tmp_path, "overwrite=true", "seed=2")
    assert "seed: 2" in (path / "config.yaml").read_text()
    folder = opened(tmp_path, "resume=true")
    assert "seed: 2" in (path / "config.yaml").read_text()
    assert (aside_of(path) / "config.yaml").read_text() == "old"
    folder.give_back()
    assert names(tmp_path) == ["a"]
    assert (path / "config.yaml").read_text() == "old"
    opened(tmp_path, "overwrite=true").begun()
    assert names(tmp_path) == ["a"]
    assert names(path) == ["config.yaml"]


def test_an_old_run_beside_a_new_one_is_named_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a kill just after the first step, and of earlier versions."""
    path = begun_run(tmp_path, "new")
    aside_of(path).mkdir()
    opened(tmp_path, "resume=true").begun()
    assert f"still lies in {aside_of(path)}; rename or delete it" in capsys.readouterr().out
    assert aside_of(path).is_dir()


def test_a_resume_without_a_folder_names_the_run_that_lies_aside(tmp_path: Path) -> None:
    path = begun_run(tmp_path, "old")
    path.rename(aside_of(path))
    with pytest.raises(UserError, match=rf"no run to resume at .* lies in {aside_of(path)}: rename it"):
        check_run(config_of(tmp_path, "resume=true"))
    assert names(tmp_path) == [aside_of(path).name]
