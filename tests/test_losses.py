"""Cross-entropy + Dice against torch and an explicit count."""

import pytest
import torch

from famseg.losses import CrossEntropyDice


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, generator=generator)
    return logits, torch.randint(0, 3, (2, 5, 7), generator=generator)


def test_cross_entropy_is_torchs(pair):
    loss = CrossEntropyDice(dice_weight=0.0)
    assert loss(*pair).item() == pytest.approx(torch.nn.functional.cross_entropy(*pair).item(), rel=1e-6)


def test_dice_counts_the_batch(pair):
    logits, mask = pair
    p = logits.softmax(1)
    scores = []
    for c in range(3):
        here = (mask == c).float()
        scores.append((2 * (p[:, c] * here).sum() + 1) / (p[:, c].sum() + here.sum() + 1))
    expected = 1 - sum(scores) / 3
    assert CrossEntropyDice(ce_weight=0.0)(logits, mask).item() == pytest.approx(expected.item(), rel=1e-6)


def test_certain_and_right_is_nearly_zero(pair):
    _, mask = pair
    logits = 50.0 * torch.nn.functional.one_hot(mask, 3).permute(0, 3, 1, 2).float()
    assert CrossEntropyDice()(logits, mask).item() < 1e-6


def test_half_precision_logits_give_a_float32_loss(pair):
    logits, mask = pair
    loss = CrossEntropyDice()(logits.bfloat16(), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(CrossEntropyDice()(logits, mask).item(), rel=1e-2)
