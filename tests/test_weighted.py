"""Weights in the loss against samples drawn at their rates, by Monte Carlo: SigLIP unbiased, CLIP consistent."""

import math

import pytest
import torch
from torch.nn import functional

from models.losses import ContrastiveLoss

PEOPLE, DIM = 300, 6
SCALE, BIAS = torch.tensor(6.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)


def population() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of pictures and texts of all samples, and the rates q: two thirds are mostly dropped."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randn(PEOPLE, DIM, generator=generator, dtype=torch.float64)
    image, text = (common + torch.randn(common.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    q = torch.where(torch.arange(PEOPLE) < 2 * PEOPLE // 3, 0.2, 1.0).double()
    image[q < 1] += 2 * torch.randn(DIM, generator=generator, dtype=torch.float64)  # the dropped differ from the kept
    return functional.normalize(image, dim=1), functional.normalize(text, dim=1), q


def losses(kind: str, batch: int, weighted: bool, repeats: int) -> torch.Tensor:
    """The loss on many batches: of samples drawn by q, or of all samples, weighted."""
    image, text, q = population()
    loss, generator = ContrastiveLoss(kind), torch.Generator().manual_seed(batch + weighted)
    found = []
    for _ in range(repeats):
        if weighted:
            drawn = torch.randint(PEOPLE, (batch,), generator=generator)
            weights = q[drawn] / q.mean()
        else:
            drawn, weights = torch.multinomial(q, batch, replacement=True, generator=generator), None
        value = loss(image[drawn], text[drawn], SCALE, BIAS if kind == "siglip" else None, weights)
        if weights is not None:  # a control variate of mean 0: most of the noise is that of the weights' mean
            value = value - math.log(batch) * (weights.mean() - 1)
        found.append(value)
    return torch.stack(found)


def test_the_weighted_siglip_loss_is_unbiased() -> None:
    image, text, q = population()
    share = q / q.sum()
    scores = SCALE * image @ text.T + BIAS
    for batch in (4, 16):
        positive = -(share * functional.logsigmoid(scores.diagonal())).sum()
        negative = -(share[:, None] * share[None, :] * functional.logsigmoid(-scores)).sum()
        expected = positive + (batch - 1) * negative  # over independent draws by q
        for weighted in (False, True):
            values = losses("siglip", batch, weighted, 3000)
            error = values.std() / math.sqrt(len(values))
            assert abs(values.mean() - expected) < 4 * error
            assert error < 0.02 * expected
        if batch == 4:
            same = -functional.logsigmoid(scores.diagonal()).mean() - 3 * functional.logsigmoid(-scores).mean()
            assert abs(same - expected) > 8 * error, "this test could not tell weights from none"


@pytest.mark.slow
def test_the_weighted_clip_loss_is_biased_downwards_by_less_the_larger_the_batch() -> None:
    biases, errors = {}, {}
    for batch, repeats in ((8, 4000), (64, 1500), (256, 400)):
        sampled, weighted = (losses("clip", batch, way, repeats) for way in (False, True))
        biases[batch] = float(weighted.mean() - sampled.mean())
        errors[batch] = float((weighted.var() / repeats + sampled.var() / repeats).sqrt())
    assert biases[8] < -4 * errors[8]
    assert abs(biases[64]) < abs(biases[8]) / 2
    assert abs(biases[256]) < abs(biases[8]) / 4 + errors[256]
