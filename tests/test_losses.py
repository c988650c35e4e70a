"""The losses on several processes against one process on the whole batch, in float64."""

import os
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.losses import contrastive_loss, create_loss
from models.optim import learning_rate, parameter_groups

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


def work(rank: int, world: int, kind: str, port: int, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = DistributedDataParallel(Towers(kind == "siglip"))
    image, text = (part[rank * BATCH // world : (rank + 1) * BATCH // world] for part in inputs())
    value = contrastive_loss(create_loss(kind, rank, world), model(image, text))
    value.backward()
    mean = value.detach().clone()
    dist.all_reduce(mean)
    torch.save({"loss": mean / world, "gradients": gradients(model)}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_many_processes_equal_one(kind: str, world: int, tmp_path: Path) -> None:
    one = Towers(kind == "siglip")
    value = contrastive_loss(create_loss(kind), one(*inputs()))
    value.backward()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(work, (world, kind, port, str(tmp_path)), nprocs=world, start_method="fork")
    for rank in range(world):
        found: dict[str, Any] = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert abs(float(found["loss"] - value.detach())) < 1e-10
        for name, gradient in gradients(one).items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=0, atol=1e-10)


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
