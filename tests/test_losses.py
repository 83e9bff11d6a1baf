"""Cross-entropy + Dice against torch and an explicit count."""

import pytest
import torch

from famseg.losses import CrossEntropyDice, merge_unknown, supervised, without_unknown


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


def test_supervision_of_logits_alone_is_their_loss(pair):
    logits, mask = pair
    known = torch.ones(2, 3, dtype=torch.bool)
    expected = CrossEntropyDice()(logits, mask)
    assert supervised(CrossEntropyDice(), logits, mask, known, 1.0).item() == expected.item()
    three = (logits, logits, logits)
    assert supervised(CrossEntropyDice(), three, mask, known, 0.5).item() == pytest.approx(2 * expected.item())


# classes that an image does not know ------------------------------------------------------------------------------


KNOWN = torch.tensor([[True, True, True], [True, False, True]])


def gradient(logits, mask, known):
    logits = logits.double().requires_grad_()
    CrossEntropyDice()(logits, mask, known).backward()
    return logits.grad


def test_knowing_all_is_the_plain_loss(pair):
    assert CrossEntropyDice()(*pair, torch.ones(2, 3, dtype=torch.bool)).item() == CrossEntropyDice()(*pair).item()


def test_merged_background_is_the_sum_of_probabilities(pair):
    logits, _ = pair
    p, merged = logits.softmax(1), merge_unknown(logits, KNOWN).softmax(1)
    torch.testing.assert_close(merged[0], p[0])
    torch.testing.assert_close(merged[1], torch.stack([p[1, 0] + p[1, 1], torch.zeros_like(p[1, 1]), p[1, 2]]))


def test_gradient_is_exactly_zero_where_nothing_is_known(pair):
    """An image whose classes are all unknown teaches nothing, whatever it is beside."""
    logits, mask = pair
    nothing = torch.tensor([[True, True, True], [True, False, False]])
    mask = mask * nothing[torch.arange(2)[:, None, None], mask]
    grad = gradient(logits, mask, nothing)
    assert (grad[1] == 0).all()
    assert grad[0].abs().max() > 1e-4


def test_sharing_among_background_and_unknown_costs_nothing(pair):
    """Along what moves probability from the background to an unknown class alone, the loss is flat."""
    logits, mask = pair
    mask = without_unknown(mask, KNOWN)
    p = logits[1].double().softmax(0)
    along = torch.stack([1 / p[0], -1 / p[1], torch.zeros_like(p[2])])  # p0 + p1 and p2 stay as they are
    grad = gradient(logits, mask, KNOWN)
    torch.testing.assert_close((grad[1] * along).sum(0), torch.zeros(5, 7, dtype=torch.float64), atol=1e-7, rtol=0)
    assert (gradient(logits, mask, None)[1] * along).sum(0).abs().max() > 1e-2  # punished as background it is not flat


def test_gradient_is_that_of_the_formula(pair):
    """docs/data.md: cross-entropy of the merged probabilities, Dice over the images that know the class."""
    logits, mask = pair
    mask = without_unknown(mask, KNOWN)
    z = logits.double().requires_grad_()
    p = z.softmax(1)
    q = [torch.stack([p[0, 0], p[1, 0] + p[1, 1]]), p[:1, 1], p[:, 2]]  # images that know BG, FL, FB
    t = [mask == 0, mask[:1] == 1, mask == 2]
    chosen = torch.where(t[0], q[0], torch.where(t[2], q[2], p[:, 1]))
    dice = [(2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(q, t, strict=True)]
    loss = -chosen.log().mean() + 1 - sum(dice) / 3
    assert CrossEntropyDice()(logits.double(), mask, KNOWN).item() == pytest.approx(loss.item(), rel=1e-6)
    (expected,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient(logits, mask, KNOWN), expected, rtol=1e-5, atol=1e-9)


def test_a_class_that_no_image_knows_leaves_the_loss_of_a_network_without_it(pair):
    logits, mask = pair
    known = torch.tensor([[True, False, True]] * 2)
    mask = without_unknown(mask, known)
    two = torch.stack([logits[:, :2].logsumexp(1), logits[:, 2]], 1)
    assert CrossEntropyDice()(logits, mask, known).item() == pytest.approx(CrossEntropyDice()(two, mask // 2).item())


def test_predictions_of_unknown_classes_become_background():
    prediction = torch.tensor([[[0, 1, 2]], [[0, 1, 2]]])
    assert without_unknown(prediction, KNOWN).tolist() == [[[0, 1, 2]], [[0, 0, 2]]]
