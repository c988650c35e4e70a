"""What a training step of a model costs, found without weights or data: parameters, floating-point operations, memory.

The model is built and run on tensors that have a shape but no content, so that a model of any size is measured in
seconds on any machine. Operations are counted by PyTorch's counter; memory is that of the parameters, of their
gradients and of AdamW's two moments, and of what autograd keeps for the backward pass, each storage counted once.
Kernels' work space, the allocator's rounding and buffers of communication are not in it.
"""

from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from models.losses import ContrastiveLoss, contrastive_loss
from models.training.precision import attention

FLOAT = 4  # bytes: weights, gradients and moments are float32, whatever the step computes in
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Cost:
    """The cost of one step of one process.

    Attributes:
        trained: parameters that are trained.
        frozen: parameters that are not.
        image_flops: operations to embed one picture (a multiplication and an addition are two).
        text_flops: operations to embed one text.
        step_flops: operations of a step: forward, loss and backward.
        activation_bytes: what is kept between forward and backward.
    """

    trained: int
    frozen: int
    image_flops: float
    text_flops: float
    step_flops: float
    activation_bytes: int

    @property
    def state_bytes(self) -> int:
        """Parameters, gradients, and AdamW's moments."""
        return FLOAT * (self.trained + self.frozen) + 3 * FLOAT * self.trained

    @property
    def step_bytes(self) -> int:
        """All of it: the most that a step holds at once is at most this, beside work space."""
        return self.state_bytes + self.activation_bytes


def measure_cost(
    model: nn.Module,
    loss: str,
    image_size: int,
    batch_size: int,
    precision: str = "fp32",
    device: str = "cpu",
    micro_batches: int = 1,
    world: int = 1,
) -> Cost:
    """Measure a step.

    Args:
        model: an open_clip model on the `meta` device, as it is trained: frozen parts do not require gradients. It is
            moved to tensors without content and is of no use afterwards.
        loss: "clip" or "siglip".
        image_size: pixels.
        batch_size: samples of a step of one process.
        precision: what the step computes in: fp32, bf16 or fp16.
        device: type of the device that the step would run on; attention kernels differ.
        micro_batches: parts that a batch is cut into, one of them in memory at a time.
        world: processes, over which features are gathered for the loss.
    """
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    part = -(-batch_size // micro_batches)
    autocast = torch.autocast(device, TYPES.get(precision), enabled=precision in TYPES)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device=device)
        images = torch.empty(part, 3, image_size, image_size, device=device)
        texts = torch.zeros(part, _context(model), dtype=torch.int64, device=device)
        kept = _Kept(model)
        with FlopCounterMode(display=False) as forward, attention(torch.device(device)), kept.hooks():
            with autocast:
                output: dict[str, Any] = model(images, texts)
            text_share = _module_flops(forward, model)
            value = contrastive_loss(ContrastiveLoss(loss), output)
        with FlopCounterMode(display=False) as backward:
            value.backward()
    ahead, back = forward.get_total_flops(), backward.get_total_flops()
    once = ahead * (2 if micro_batches > 1 else 1)  # features are computed without a graph first
    width = output["image_features"].shape[1]
    # The scores of this process's anchors against its own batch are counted; those against other processes' are not.
    others = batch_size * (world - 1)
    loss_bytes = FLOAT * (2 * others * width + 4 * others * part)
    return Cost(
        trained,
        frozen,
        (ahead - text_share) / part,
        text_share / part,
        micro_batches * (once + back),
        kept.bytes + loss_bytes,
    )


def shape_of(name: str) -> tuple[nn.Module, str, int] | None:
    """An open_clip model on the `meta` device without its tokenizer, its loss, its picture size; None if not known."""
    if name not in open_clip.list_models():
        return None
    with torch.device("meta"):
        model: Any = open_clip.create_model(name, device="meta", load_weights=False, output_dict=True)
    size = model.visual.image_size
    loss = "siglip" if getattr(model, "logit_bias", None) is not None else "clip"
    return model, loss, size if isinstance(size, int) else size[0]


class _Kept:
    """Counts what autograd keeps, without the parameters themselves."""

    def __init__(self, model: nn.Module) -> None:
        self.known = {p.untyped_storage()._cdata for p in model.parameters()}
        self.bytes = 0

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:  # autograd keeps the tensor, so that the number stays its own
            self.known.add(storage._cdata)
            self.bytes += storage.nbytes()
        return tensor


def _module_flops(counter: FlopCounterMode, model: nn.Module) -> float:
    """Operations of all but the image tower."""
    counts = counter.get_flop_counts()
    image = sum(sum(ops.values()) for name, ops in counts.items() if name.endswith(".visual"))
    return float(counter.get_total_flops() - image)


def _context(model: nn.Module) -> int:
    """Tokens of a text, wherever the model's class keeps the number."""
    length = getattr(model, "context_length", None)
    if length is None:
        length = model.text.context_length  # type: ignore[union-attr]
    return int(length)  # type: ignore[arg-type]
