"""The typed configuration: every key there is, with its default's type. An unknown key or a wrong type is an error."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class DataConfig:
    """Where the pairs are and how they are read."""

    name: str = MISSING
    root: str | None = None  # a folder that other paths of the group may refer to
    train: Any = MISSING  # a folder, a glob, a brace pattern, an address, or a list of these
    eval: Any = None  # image-text shards for retrieval, given the same way
    batch_size: int = 256  # per process
    workers: int = 1  # loader processes per training process; 0 reads in the training process
    shuffle: int = 2000  # samples in the shuffle buffer of each worker
    scale: tuple[float, float] = (0.9, 1.0)  # share of the picture's area that a training crop keeps
    fast_decode: bool = False  # scaled JPEG decoding: faster, another filter; never used in evaluation
    max_bad: float = 0.05  # share of unusable samples at which a run stops
    allow_pipe: bool = False  # let `pipe:` addresses run shell commands


@dataclass
class ModelConfig:
    """What is trained."""

    name: str = MISSING  # an open_clip name, `local-dir:<folder>`, or any name if `config` is given
    pretrained: str | None = None  # an open_clip tag or a file of weights, open_clip's own word
    init_from: str | None = None  # weights from anywhere: a tag, the hub, a folder, a file, a run
    config: dict[str, Any] | None = None  # open_clip `model_cfg`, to build a model from scratch
    preprocess: dict[str, Any] | None = None  # open_clip `preprocess_cfg`
    loss: str | None = None  # clip or siglip; by default what the model is made for
    context_length: int | None = None  # tokens per text, if other than the model's own
    image_size: int | None = None  # pixels, if other than the model's own
    trim_text: bool = True  # leave out the padding behind the captions of a batch, where that changes nothing
    freeze: dict[str, Any] = field(default_factory=dict)  # tower (image, text) -> all, or how many last blocks train
    lora: dict[str, Any] | None = None  # rank, alpha, dropout, targets of low-rank adapters
    ema: float | None = None  # decay of a running average of the weights
    keep_outputs: bool = False  # freeze both towers, compute their outputs once, and train the projections on them


@dataclass
class OptimConfig:
    """AdamW."""

    name: str = MISSING
    lr: float = MISSING  # peak learning rate
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    grad_clip: float | None = 1.0  # largest norm of the gradient
    layer_decay: float = 1.0  # each layer learns that many times as fast as the one above it
    accumulate: int = 1  # micro-batches that a batch is cut into: less memory, the same gradient


@dataclass
class ScheduleConfig:
    """How long, and how the learning rate moves."""

    name: str = MISSING
    epochs: int = MISSING
    epoch_samples: int | None = None  # samples in an epoch, over all processes; by default one pass over the data
    warmup: float = 0.1  # share of all steps
    final_lr: float = 0.0  # share of the peak learning rate at the end


@dataclass
class EvalConfig:
    """What is measured after every epoch."""

    name: str = MISSING
    root: str | None = None  # a folder that the paths of the sets may refer to
    batch_size: int = 256
    every: int = 1  # epochs
    bootstrap: int = 1000  # resamples behind an interval
    sets: dict[str, Any] = field(default_factory=dict)  # name -> {path, ...}
    evaluators: dict[str, Any] = field(default_factory=dict)  # name -> {kind, set, ...}
    headline: dict[str, Any] = field(default_factory=dict)  # what the summary shows: label -> metric
    targets: dict[str, float] = field(default_factory=dict)  # what unlearning aims at: bias metric -> largest size
    bounds: dict[str, float] = field(default_factory=dict)  # how far quality may fall: metric -> largest fall


@dataclass
class TrackConfig:
    """Where metrics go beside `metrics.jsonl`."""

    name: str = MISSING
    wandb: str = "offline"  # offline, online, or disabled
    project: str = "counterbalance"
    entity: str | None = None
    group: str | None = None  # W&B group; by default the run's name, which its resumed attempts share
    job: str = "train"  # W&B job type: what kind of run this is
    every: int = 20  # steps between two rows of training metrics
    baseline: str | None = None  # a run (its name or folder) that the report compares this one with


@dataclass
class CheckpointConfig:
    """When a checkpoint is written, and which ones are kept; the end of a run always has one."""

    every_steps: int | None = None
    every_minutes: float | None = None
    every_epochs: int | None = 1
    keep: int = 2  # of the newest
    best: str | None = None  # a metric of the evaluation whose best checkpoint is kept, too
    best_mode: str = "max"  # min or max


@dataclass
class StageConfig:
    """A run divided into a balanced and an unbalanced part: the short form of `stages`."""

    share: float | None = None  # share of the run on balanced data; null: the run is not divided
    order: str = "balanced_last"  # or balanced_first


@dataclass
class StopConfig:
    """When to stop before the end; judged at every evaluation."""

    targets: dict[str, float] = field(default_factory=dict)  # bias metric -> largest absolute value wanted
    quality: dict[str, float] = field(default_factory=dict)  # quality metric -> largest fall below its first value
    certain: bool = False  # the whole 95 % interval must meet a target


@dataclass
class DryRunConfig:
    """What a dry run looks at."""

    processes: int | None = None  # how many training processes to plan for; null: as many as were started


@dataclass
class Config:
    """One run."""

    name: str | None = None  # name of the run and of its folder; made up if not given
    runs: str = "runs"  # folder of all runs
    seed: int = 0
    resume: bool = False  # go on from the run's last checkpoint
    overwrite: bool = False  # delete a run of the same name first
    dry_run: bool = False  # say what the run would take, and what would go wrong, without starting it
    precision: str = "auto"  # fp32, bf16, fp16; auto: bf16 where the machine gains from it
    device: str = "auto"  # auto, cpu or cuda
    compile: bool = False  # torch.compile: pays on a GPU, not on a CPU (100 s to compile, no gain)
    fsdp: bool = False  # divide weights, gradients and optimiser among the processes, for models too large for one
    data: DataConfig = field(default_factory=DataConfig)
    attributes: dict[str, Any] = field(default_factory=dict)  # checked by balance.attributes
    balance: dict[str, Any] = field(default_factory=dict)  # checked by balance.problem
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    stages: list[Any] = field(default_factory=list)  # {share, balance, name}: parts of the run, one after another
    stage: StageConfig = field(default_factory=StageConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    dry: DryRunConfig = field(default_factory=DryRunConfig)
