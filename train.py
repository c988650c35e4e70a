"""Train a CLIP or SigLIP model on balanced image-text data and measure its bias and quality after every epoch.

    python train.py name=mine data=wds 'data.train=shards/train-{00000..00099}.tar' attributes=captions

The story from top to bottom: configuration -> attributes -> plan -> model -> stream -> loop -> evaluation.
Everything that can be known to be wrong is checked before the first step.
"""

import conf.app.runtime  # noqa: F401  # isort: skip  # before torch

if __name__ == "__main__":  # help and mistakes are answered before torch loads, which takes seconds
    from conf.app.cli import answer_early

    answer_early()

import contextlib
from collections.abc import Iterator

import torch

from balance.common.metric import Metric, as_metrics
from balance.common.pulse import PULSE
from balance.progress import ProgressLine
from balance.stream.balanced import Batch
from conf.app.cli import launch
from conf.app.dry_run import rehearse
from conf.app.parts import Parts, make_parts
from conf.app.run import resume_command, write_config
from conf.app.run_folder import RunFolder, run_folder
from conf.app.schema import Config
from conf.app.setup import check_checkpoint, set_up
from eval.report.run_page import write_report
from eval.report.summary import summarise
from models.checkpoint import check_weights
from models.training.accumulation import backward
from models.training.precision import attention
from models.training.run_state import RunState
from models.training.sharding import whole_tensor
from models.training.signals import stop_on_signal
from models.training.stopping import write_outcome
from models.training.watchdog import watching

MAX_LOGIT_SCALE = 4.6052  # log 100, as CLIP clamps it


def main(config: Config) -> int:
    """Run one training run; the exit status (130 or 143 when stopped by a signal)."""
    setup = set_up(config)
    with watching(setup.processes, 60 * config.distributed.timeout):
        if config.dry_run:
            check_checkpoint(config, setup)
            return rehearse(config, setup)
        with run_folder(config, setup.processes) as place:  # given back if the run fails before its first step
            check_checkpoint(config, setup)
            about = f"{config.model.name} on {len(setup.shards)} shards, {setup.processes.world} process(es)"
            setup.processes.say(f"Run {config.name}: {about}, {setup.device.type}, {setup.precision}")
            trainer = make_parts(Trainer, config, setup, place.path)
            with trainer.tracker:
                return trainer.run(place)


class Trainer(Parts):
    """Takes the steps of one run, measures, and writes checkpoints."""

    def run(self, place: RunFolder) -> int:
        """Begin or go on, and take all steps; the exit status."""
        state = self.state()
        self.begin(state)
        progress, stopped_by = self.progress, 0
        batches = iter(self.stream)
        with (
            stop_on_signal() as signals,
            ProgressLine("train", progress.total_samples, start=progress.samples, shown=self.processes.first) as line,
        ):
            while not progress.done:
                batch = self.meter.wait_for(batches)
                lr = self.learning_rate.set()
                loss = self.step(batch)
                place.begun()
                progress.step += 1
                self.meter.add(batch, loss)
                line.update(progress.batch, self.meter.note())
                self.log_step(lr)
                if progress.at_epoch_end:
                    self.end_epoch()
                elif self.stream.at_stage_end:
                    self.log_accepted()
                if self.stream.at_stage_end:
                    self.log_stage()
                stopped_by, minutes_up = self.asked_for(signals)
                if self.checkpoints.due or minutes_up or stopped_by:
                    # After the evaluation, so that a checkpoint stands for all that was logged up to its step.
                    self.save(state)
                if stopped_by:
                    break
        self.tracker.close()
        return self.end(stopped_by)

    # ------------------------------------------------------------------ beginning and end

    def begin(self, state: RunState) -> None:
        """Go on from the newest checkpoint when resuming; else, and where there is none, measure the start."""
        progress, first = self.progress, self.processes.first
        if self.config.resume:
            found = state.resume(self.checkpoints.folder)
            self.tracker.rewind(progress.step if found else -1)
            if first:
                write_config(self.config, self.folder.name, self.folder)
            self.processes.say(f"Resumed at step {progress.step} of {progress.total_steps}")
        if first:  # not before: a resume that is refused leaves all as it was
            self.write_facts()
        if progress.step == 0:
            self.tracker.keep(self.folder / "plan", "plan")
            self.tracker.log(as_metrics("data", self.stages.main.values()), 0, 0, 0)
            self.log_stage()
            self.evaluate()

    def end(self, stopped_by: int) -> int:
        """Say how the run ended; the exit status."""
        if stopped_by:
            self.processes.say(f"Stopped at step {self.progress.step}; go on with: {resume_command(self.config)}")
            return 128 + stopped_by
        if self.processes.first:
            self.processes.say(f"{summarise(self.folder)}\nDone. Report: {self.folder / 'report.html'}")
        return 0

    def asked_for(self, signals: list[int]) -> tuple[int, bool]:
        """On all processes: the signal that any of them received (0: none), and whether a checkpoint's time is up."""
        stop, minutes_up = self.processes.any(bool(signals), self.processes.first and self.checkpoints.minutes_up)
        return max(self.processes.gather(signals[0] if signals else 0)) if stop else 0, minutes_up

    # ------------------------------------------------------------------ one step

    def step(self, batch: Batch) -> torch.Tensor:
        """Forward, contrastive loss in float32, backward, clip, update; the loss."""
        accelerator, device, optim = self.accelerator, self.accelerator.device, self.config.optim
        given = (batch.images, self.bundle.trim(batch.tokens))
        images, tokens = (part.to(device, non_blocking=True) for part in given)
        with attention(device), self._together():
            loss = backward(
                accelerator,
                self.model,
                self.loss,
                images,
                tokens,
                batch.weights,
                optim.accumulate,
                self.bundle.normalise,
            )
            if optim.grad_clip is not None:
                accelerator.clip_grad_norm_(self.model.parameters(), optim.grad_clip)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.trained.logit_scale.clamp_(0, MAX_LOGIT_SCALE)  # type: ignore[operator]
        if self.ema is not None:
            self.ema.update()
        return loss

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """A step in which processes wait for each other's features and gradients."""
        PULSE.beat(f"step {self.progress.step + 1}")
        with PULSE.wait():
            yield

    # ------------------------------------------------------------------ what is logged

    def log(self, metrics: list[Metric]) -> None:
        """Log metrics at the step just done."""
        self.tracker.log(metrics, self.progress.step, self.progress.epoch, self.progress.samples)

    def log_step(self, lr: float) -> None:
        """Log loss, rates and speed of the last steps where a row is due."""
        if self.progress.step % self.config.track.every == 0:
            scale = float(whole_tensor(self.trained.logit_scale.detach()).exp())  # type: ignore[operator]
            self.log(self.meter.metrics(lr, scale))

    def log_accepted(self) -> None:
        """Hold what was accepted since the last time against the plan of the stage, and begin anew."""
        self.meter.check_finite()
        plan = self.stages.balances[self.stream.stage]
        self.log(as_metrics("accepted", plan.compare(self.meter.accepted_everywhere())))
        self.meter.restart()

    def log_stage(self) -> None:
        """Log the stage that begins at this step."""
        if len(self.stages.specs) > 1 and not self.progress.done:
            self.log([Metric("train/stage", self.stream.stage_at(self.progress.step))])

    def end_epoch(self) -> None:
        """Hold what was accepted against the plan, and evaluate where an evaluation is due."""
        self.log_accepted()
        if self.progress.epoch_number % self.config.eval.every == 0 or self.progress.done:
            self.evaluate()
        self.meter.restart()

    def evaluate(self) -> None:
        """Measure the model, log it, and write the report anew."""
        processes, progress = self.processes, self.progress
        if self.sharded is not None:
            self.sharded.gather()
        with self.ema.applied() if self.ema is not None else contextlib.nullcontext():
            metrics = self.suite.run(self.bundle, self.accelerator.device, processes)
        metrics += self.stopper.judge(metrics)
        progress.ended = self.stopper.outcome is not None
        self.log(metrics)
        if progress.done and self.stopper.wanted:
            processes.say(self.stopper.sentence(progress.samples, metrics))
            if processes.first:
                write_outcome(self.folder, self.stopper, progress.samples, metrics)
        self.checkpoints.note({metric.name: metric.value for metric in metrics})
        if processes.first:
            pages = self.suite.pages.items()
            figures = {f"{name}: {title}": html for name, parts in pages for title, html in parts.items()}
            write_report(self.folder, figures, self.suite.skipped)

    def save(self, state: RunState) -> None:
        """Write a checkpoint, unless training has gone wrong since the last one."""
        self.meter.check_finite()
        whole = state.state_dict()
        check_weights(self.bundle.model, self.progress.step)
        if self.processes.first:
            self.checkpoints.save(whole)
        self.checkpoints.restart()


if __name__ == "__main__":
    launch(main)
