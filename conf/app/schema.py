"""The typed configuration: every key there is, with its type, default and unit, and the values that it may take.

The defaults stand here alone; the choices of the groups (`conf/*/*.yaml`) hold what they change. An unknown key, a
wrong type and a value that is not allowed are errors before anything starts.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from balance.common.allowed import between, number, word
from balance.errors import UserError


@dataclass
class DataConfig:
    """Where the pairs are and how they are read."""

    name: str = MISSING
    root: str | None = None  # a folder that other paths of the group may refer to
    train: Any = MISSING  # a folder, a glob, a brace pattern, an address, or a list of these
    eval: Any = None  # image-text shards that are measured on, given the same way
    holdout: float = number(
        0.02, 0, 0.5
    )  # share of data.train that is measured on and never trained on, by key, where data.eval is not given
    batch_size: int = number(128, 1, 1_000_000)  # samples per process and step
    workers: int = number(1, 0, 1_024)  # loader processes per training process; 0 reads in the training process
    shuffle: int = number(2_000, 0, 1_000_000_000)  # samples in the shuffle buffer of each worker
    scale: tuple[float, float] = number(
        (0.9, 1.0), 0, 1, above=True
    )  # smallest and largest share of the picture's area that a training crop keeps
    fast_decode: bool = False  # scaled JPEG decoding: faster, another filter; never used in evaluation
    max_bad: float = number(0.05, 0, 1)  # share of unusable samples at which a run stops
    allow_pipe: bool = False  # let `pipe:` addresses run shell commands
    storage: dict[str, Any] | None = None  # endpoint_url, region, anon, profile, project, account_name; never a secret
    retries: int = number(5, 0, 100)  # times that a failed request to a store is tried again
    timeout: float = number(60.0, 0, 86_400, above=True)  # seconds after which a silent request has failed

    def __post_init__(self) -> None:
        smallest, largest = self.scale
        if smallest > largest:
            raise UserError(f"data.scale={list(self.scale)} must be [smallest, largest]; swap the two.")


@dataclass
class ModelConfig:
    """What is trained."""

    name: str = MISSING  # an open_clip name, `local-dir:<folder>`, or any name if `config` is given
    pretrained: str | None = None  # an open_clip tag or a file of weights, open_clip's own word
    init_from: str | None = None  # weights from anywhere: a tag, the hub, a folder, a file, a run
    tokenizer: str | None = None  # a folder with a tokenizer of transformers, if other than that of the weights
    config: dict[str, Any] | None = None  # open_clip `model_cfg`, to build a model from scratch
    preprocess: dict[str, Any] | None = None  # open_clip `preprocess_cfg`
    loss: str | None = None  # clip or siglip; by default what the model is made for
    context_length: int | None = number(None, 1, 100_000)  # tokens per text, if other than the model's own
    image_size: int | None = number(None, 1, 10_000)  # pixels, if other than the model's own
    trim_text: bool = True  # leave out the padding behind the captions of a batch, where that changes nothing
    freeze: dict[str, Any] = field(
        default_factory=lambda: {"image": None, "text": None}
    )  # tower (image, text) -> all, or how many last blocks train
    lora: dict[str, Any] | None = None  # rank, alpha, dropout, targets of low-rank adapters
    ema: float | None = number(None, 0, 1, below=True)  # decay of a running average of the weights
    keep_outputs: bool = False  # freeze both towers, compute their outputs once, and train the projections on them


@dataclass
class OptimConfig:
    """AdamW."""

    name: str = MISSING
    lr: float = number(1e-3, 0, 10, above=True)  # peak learning rate
    weight_decay: float = number(0.1, 0, 10)
    beta1: float = number(0.9, 0, 1, below=True)
    beta2: float = number(0.98, 0, 1, below=True)
    eps: float = number(1e-6, 0, 1, above=True)
    grad_clip: float | None = number(1.0, 0, 1_000_000, above=True)  # largest norm of the gradient; null: any
    layer_decay: float = number(1.0, 0, 1, above=True)  # each layer learns that many times as fast as the one above it
    accumulate: int = number(1, 1, 1_000_000)  # micro-batches that a batch is cut into: less memory, the same gradient


@dataclass
class ScheduleConfig:
    """How long, and how the learning rate moves."""

    name: str = MISSING
    epochs: int = number(10, 1, 1_000_000)
    epoch_samples: int | None = number(
        None, 1, 1_000_000_000_000
    )  # samples in an epoch, over all processes; by default one pass over the data
    warmup: float = number(0.1, 0, 1)  # share of all steps in which the learning rate rises
    final_lr: float = number(0.0, 0, 1)  # share of the peak learning rate at the end


@dataclass
class EvalConfig:
    """What is measured after every epoch."""

    name: str = MISSING
    root: str | None = None  # a folder that the paths of the sets may refer to
    batch_size: int = number(256, 1, 1_000_000)  # images or texts at a time
    every: int = number(1, 1, 1_000_000)  # epochs between two evaluations
    bootstrap: int = number(1_000, 2, 1_000_000)  # resamples behind an interval
    sets: dict[str, Any] = field(default_factory=dict)  # name -> {path, ...}
    evaluators: dict[str, Any] = field(default_factory=dict)  # name -> {kind, set, ...}
    headline: dict[str, Any] = field(default_factory=dict)  # what the summary shows: label -> metric
    targets: dict[str, float] = field(
        default_factory=dict, metadata=between(0, 1_000, above=True)
    )  # what unlearning aims at: bias metric -> largest size
    bounds: dict[str, float] = field(
        default_factory=dict, metadata=between(0, 1_000, above=True)
    )  # how far quality may fall: metric -> largest fall


@dataclass
class TrackConfig:
    """Where metrics go beside `metrics.jsonl`."""

    name: str = MISSING
    wandb: str = word("offline", "online", "disabled")  # offline: written to the run's folder, for `wandb sync`
    project: str = "counterbalance"
    entity: str | None = None
    group: str | None = None  # W&B group; by default the run's name, which its resumed attempts share
    job: str = "train"  # W&B job type: what kind of run this is
    every: int = number(20, 1, 1_000_000_000)  # steps between two rows of training metrics
    baseline: str | None = None  # a run (its name or folder) that the report compares this one with


@dataclass
class CheckpointConfig:
    """When a checkpoint is written, and which ones are kept; the end of a run always has one."""

    every_steps: int | None = number(None, 1, 1_000_000_000)  # steps between two checkpoints
    every_minutes: float | None = number(None, 0, 1_000_000, above=True)  # minutes between two
    every_epochs: int | None = number(1, 1, 1_000_000)  # epochs between two
    keep: int = number(2, 1, 1_000_000)  # of the newest
    best: str | None = None  # a metric of the evaluation whose best checkpoint is kept, too
    best_mode: str = word("max", "min")  # which of its values is best


@dataclass
class StageConfig:
    """A run divided into a balanced and an unbalanced part: the short form of `stages`."""

    share: float | None = number(None, 0, 1)  # share of the run on balanced data; null: the run is not divided
    order: str = word("balanced_last", "balanced_first")  # which part comes last or first


@dataclass
class StopConfig:
    """When to stop before the end; judged at every evaluation."""

    targets: dict[str, float] = field(
        default_factory=dict, metadata=between(0, 1_000, above=True)
    )  # bias metric -> largest absolute value wanted
    quality: dict[str, float] = field(
        default_factory=dict, metadata=between(0, 1_000, above=True)
    )  # quality metric -> largest fall below its first value
    certain: bool | None = None  # the whole 95 % interval must meet a target; null: where it is wider than the target
    in_a_row: int = number(2, 1, 100)  # evaluations in a row that must meet all targets


@dataclass
class DistributedConfig:
    """Several processes."""

    timeout: float = number(
        10.0, 0, 100_000, above=True
    )  # minutes in which no process makes progress, while some wait for others, after which the job ends


@dataclass
class DryRunConfig:
    """What a dry run looks at."""

    processes: int | None = number(
        None, 1, 1_000_000
    )  # how many training processes to plan for; null: as many as were started


@dataclass
class Config:
    """One run."""

    name: str | None = None  # name of the run and of its folder; made up if not given
    runs: str = "runs"  # folder of all runs
    seed: int = number(0, 0, 2**32 - 1)  # of weights, order and crops
    resume: bool = False  # go on from the run's last checkpoint
    overwrite: bool = False  # delete a run of the same name first
    dry_run: bool = False  # say what the run would take, and what would go wrong, without starting it
    precision: str = word("auto", "fp32", "bf16", "fp16")  # auto: bf16 where the machine gains from it
    device: str = word("auto", "cpu", "cuda")  # auto: a GPU where there is one
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
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    dry: DryRunConfig = field(default_factory=DryRunConfig)
