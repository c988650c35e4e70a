"""The losses: against open_clip's, over processes, in micro-batches and chunks; all in float64 to 1e-10."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from balance.errors import UserError
from models.losses import ContrastiveLoss, contrastive_loss
from models.training.accumulation import backward, check_accumulation
from models.training.optimizer import learning_rate, parameter_groups
from tests.together import together

BATCH, DIM = 12, 5


class Towers(nn.Module):
    """Two linear towers with scale and bias, in float64."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(7, DIM).double(), nn.Linear(6, DIM).double()
        self.logit_scale = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
        if bias:
            self.logit_bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
        output = {
            "image_features": nn.functional.normalize(self.image(image), dim=1),
            "text_features": nn.functional.normalize(self.text(text), dim=1),
            "logit_scale": self.logit_scale.exp(),
        }
        return {**output, "logit_bias": self.logit_bias} if hasattr(self, "logit_bias") else output


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(BATCH, 7, generator=generator, dtype=torch.float64),
        torch.randn(BATCH, 6, generator=generator, dtype=torch.float64),
    )


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}


def weights(weighted: bool) -> torch.Tensor | None:
    generator = torch.Generator().manual_seed(2)
    some = 2 * torch.rand(BATCH, generator=generator, dtype=torch.float64)
    some[3] = 0  # a sample that sampling would always drop
    return some if weighted else None


def whole(kind: str, weighted: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one process on the whole batch at once."""
    model = Towers(kind == "siglip")
    value = contrastive_loss(ContrastiveLoss(kind), model(*inputs()), weights(weighted))
    value.backward()
    return value.detach(), gradients(model)


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_unweighted_losses_are_those_of_open_clip(kind: str) -> None:
    model = Towers(kind == "siglip")
    output = model(*inputs())
    reference = SigLipLoss() if kind == "siglip" else ClipLoss()
    value = reference(*output.values())
    value.backward()
    found, grads = whole(kind, weighted=False)
    torch.testing.assert_close(found, value.detach(), rtol=0, atol=1e-12)
    assert_equal(grads, gradients(model))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_weights_of_one_change_nothing_and_whole_weights_are_copies(kind: str) -> None:
    model = Towers(kind == "siglip")
    output, loss = model(*inputs()), ContrastiveLoss(kind)
    ones = torch.ones(BATCH, dtype=torch.float64)
    torch.testing.assert_close(contrastive_loss(loss, output, ones), contrastive_loss(loss, output), rtol=0, atol=1e-12)
    # A sample of weight 0 is as good as absent.
    some = ones.clone()
    some[[2, 5]] = 0
    rest = {name: value[some > 0] if value.ndim else value for name, value in output.items()}
    dropped = contrastive_loss(loss, rest) * (BATCH - 2) / BATCH
    torch.testing.assert_close(contrastive_loss(loss, output, some), dropped, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parts", [2, 5, BATCH])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_micro_batches_give_the_gradient_of_the_full_batch(kind: str, parts: int, weighted: bool) -> None:
    model = Towers(kind == "siglip")
    loss = ContrastiveLoss(kind, chunks=parts)
    value = backward(Accelerator(cpu=True), model, loss, *inputs(), weights(weighted), parts)
    wanted, grads = whole(kind, weighted)
    torch.testing.assert_close(value, wanted, rtol=0, atol=1e-10)
    assert_equal(gradients(model), grads)


def test_dropout_is_the_same_in_both_passes() -> None:
    """The features of both passes must agree, or the gradients of one would belong to those of the other."""
    seen: list[torch.Tensor] = []

    class Noisy(Towers):
        def forward(self, image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
            output = super().forward(nn.functional.dropout(image, 0.5), text)
            seen.append(output["image_features"].detach())
            return output

    backward(Accelerator(cpu=True), Noisy(False), ContrastiveLoss("clip"), *inputs(), None, 3)
    assert len(seen) == 6
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], seen[1])


def test_a_frozen_tower_and_a_frozen_scale_stay_without_gradient() -> None:
    model, reference = Towers(True), Towers(True)
    for towers in (model, reference):
        towers.image.requires_grad_(False)
        towers.logit_scale.requires_grad_(False)
    backward(Accelerator(cpu=True), model, ContrastiveLoss("siglip"), *inputs(), None, 4)
    contrastive_loss(ContrastiveLoss("siglip"), reference(*inputs())).backward()
    assert_equal(gradients(model), gradients(reference))


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UserError, match="it is 1 to 8"):
        check_accumulation(Towers(False), 9, 8)
    with pytest.raises(UserError, match="normalises over the batch"):
        check_accumulation(nn.Sequential(nn.BatchNorm1d(3)), 2, 8)
    check_accumulation(nn.Sequential(nn.BatchNorm1d(3)).eval(), 2, 8)


def saved_bytes(step: Callable[[], Any]) -> int:
    """Most bytes that autograd kept for backward at one time: counted from saving a tensor to its last reference."""
    kept = peak = 0

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal kept, peak
            self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size()
            kept += self.bytes
            peak = max(peak, kept)

        def __del__(self) -> None:
            nonlocal kept
            kept -= self.bytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda handle: handle.tensor):
        step()
    return peak


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_micro_batches_save_memory(kind: str) -> None:
    class Deep(Towers):
        """Two towers with far more activations than features."""

        def forward(self, image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
            for _ in range(20):
                image, text = torch.tanh(image), torch.tanh(text)
            return super().forward(image, text)

    def step(parts: int) -> Callable[[], Any]:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(256, 7, generator=generator, dtype=torch.float64).requires_grad_()
        text = torch.randn(256, 6, generator=generator, dtype=torch.float64).requires_grad_()
        loss = ContrastiveLoss(kind, chunks=parts)
        return lambda: backward(Accelerator(cpu=True), Deep(kind == "siglip"), loss, image, text, None, parts)

    at_once, in_parts = saved_bytes(step(1)), saved_bytes(step(8))
    assert in_parts < at_once / 5, f"{in_parts} bytes against {at_once}"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_chunks_keep_one_part_of_the_scores(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(512, DIM, generator=generator).requires_grad_() for _ in range(2)]
    scale, bias = torch.tensor(2.0).requires_grad_(), torch.tensor(-1.0).requires_grad_()

    def step(chunks: int) -> Callable[[], Any]:
        return lambda: ContrastiveLoss(kind, chunks=chunks)(*features, scale, bias).backward()

    at_once, in_parts = saved_bytes(step(1)), saved_bytes(step(16))
    assert in_parts < at_once / 5, f"{in_parts} bytes against {at_once}"


def work(world: int, out: str) -> None:
    """One of the processes: every kind of loss, weighted and not, at once and in parts."""
    accelerator = Accelerator(cpu=True)
    rank = dist.get_rank()
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    found = {}
    for kind, weighted, parts in CASES:
        model = DistributedDataParallel(Towers(kind == "siglip"))
        every = weights(weighted)
        value = backward(
            accelerator,
            model,
            ContrastiveLoss(kind, rank, world, chunks=parts),
            *(part[mine] for part in inputs()),
            None if every is None else every[mine],
            parts,
        )
        dist.all_reduce(value)
        found[f"{kind} {weighted} {parts}"] = {"loss": value / world, "gradients": gradients(model)}
    torch.save(found, f"{out}/{rank}.pt")
    dist.destroy_process_group()


CASES = [(kind, weighted, parts) for kind in ("clip", "siglip") for weighted in (False, True) for parts in (1, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_many_processes_equal_one(world: int, tmp_path: Path) -> None:
    assert together(world, work, world, str(tmp_path)) == [0] * world
    for rank in range(world):
        found: dict[str, Any] = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for kind, weighted, parts in CASES:
            case = found[f"{kind} {weighted} {parts}"]
            value, grads = whole(kind, weighted)
            assert abs(float(case["loss"] - value)) < 1e-10
            assert_equal(case["gradients"], grads)


def test_learning_rate_rises_then_falls_to_its_end() -> None:
    rates = [learning_rate(step, 100, 10, 1.0, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_vectors_and_scalars_do_not_decay() -> None:
    decay, rest = parameter_groups(Towers(bias=True), 0.2)
    assert [p.ndim for p in decay["params"]] == [2, 2]
    assert sorted(p.ndim for p in rest["params"]) == [0, 0, 1, 1]
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.2, 0.0)
