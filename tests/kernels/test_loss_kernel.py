"""The loss's kernel against its plain twin in float64: the sums and the gradient of the logits."""

import pytest
import torch
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels import loss
from famseg.losses import CrossEntropyDice, loss_sums


def functions(shape, seed, device):
    """Kernel and twin as functions of the logits; every third image does not know some classes."""
    b, k, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(b, k, generator=generator) < (0.5 if seed % 3 == 0 else 2.0)
    known[:, 0] = True
    mask = torch.randint(0, k, (b, h, w), generator=generator)
    mask = (mask * known[torch.arange(b)[:, None, None], mask]).to(device)  # a mask shows no class it does not know
    known = known.to(device)
    scale = 1.0 / (b * h * w)

    def twin(logits):
        entropy, *classes = loss_sums(logits, mask, known)
        return scale * torch.cat([entropy[None], *classes])

    return lambda logits: scale * loss.sums(logits, mask, known), twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 3, 9, 14), (3, 5, 1, 37), (1, 16, 4, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_small_maps(shape, seed, dtype, device):
    logits = 3 * random_map(shape, seed, dtype, device)
    assert_like_twin(*functions(shape, seed, device), [logits], TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    shape = (2, 3, 5, 6)
    logits = random_map(shape, 0, device=device, layout=layout)
    assert_like_twin(*functions(shape, 0, device), [logits], TOLERANCE[torch.float32])


def test_several_tiles_of_a_program(device, monkeypatch):
    """Of the 6 tiles of 256 pixels of each image, one program has 3 and 3 go to another; the last one is cut off."""
    monkeypatch.setattr("famseg.kernels.loss.PROGRAMS", 4)
    shape = (2, 3, 37, 41)
    logits = 3 * random_map(shape, 0, device=device)
    assert_like_twin(*functions(shape, 0, device), [logits], TOLERANCE[torch.float32])


def test_logits_that_were_cropped(device):
    shape = (2, 3, 30, 35)
    whole = 3 * random_map((2, 3, 32, 64), 0, device=device)
    kernel, twin = functions(shape, 0, device)
    assert_like_twin(lambda x: kernel(x[:, :, 1:-1, 9:44]), lambda x: twin(x[:, :, 1:-1, 9:44]), [whole], 1e-5)


def test_as_the_compiler_sees_it(device):
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    logits = random_map((2, 3, 4, 5), 0, device=device).requires_grad_()
    mask, known = (torch.zeros(2, 4, 5, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool))
    arguments = logits, mask.to(device), known.to(device)
    torch.library.opcheck(torch.ops.famseg.loss_sums.default, arguments, test_utils=checks)
    sums = torch.rand(10, device=device).requires_grad_()
    torch.library.opcheck(torch.ops.famseg.loss_of_sums.default, (sums, arguments[2], 0.1, 1.0, 1.0), test_utils=checks)


@pytest.mark.gpu
def test_the_same_bits_every_time(device):
    logits = random_map((16, 3, 512, 512), 0, torch.bfloat16, device).requires_grad_()
    kernel, _ = functions(logits.shape, 0, device)

    def run():
        sums = kernel(logits)
        return sums, *torch.autograd.grad(sums.square().sum(), logits)

    first = run()
    assert all(torch.equal(a, b) for _ in range(5) for a, b in zip(first, run(), strict=True))


def test_certain_and_wrong_has_a_finite_loss_and_the_whole_gradient(device):
    logits = torch.tensor([300.0, -300.0], device=device).view(1, 2, 1, 1).requires_grad_()
    mask = torch.ones(1, 1, 1, dtype=torch.long, device=device)
    value = CrossEntropyDice(dice_weight=0.0, backend="triton")(logits, mask)
    value.backward()
    assert value.item() == 600.0
    assert logits.grad.flatten().tolist() == [1.0, -1.0]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.3, 0.0, 1.0), (0.0, 2.0, 5.0), (1.0, 1.0, 0.0)])
@pytest.mark.parametrize("all_known", [True, False])
def test_the_loss_gives_the_same_with_both(weights, all_known, device, monkeypatch):
    """A class that no image knows has no Dice; 5 classes fill no power of two, 3 images are two and one."""
    monkeypatch.setattr(loss, "IMAGES", 2)
    logits, mask = random_map((3, 5, 8, 9), 1, device=device), torch.randint(0, 2, (3, 8, 9), device=device)
    known = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 0, 0, 0], [1, 1, 0, 0, 1]], dtype=torch.bool, device=device)
    results = []
    for backend in ("triton", "torch"):
        leaf = logits.clone().requires_grad_()
        value = CrossEntropyDice(*weights, backend=backend)(leaf, mask, None if all_known else known)
        results.append((value, *torch.autograd.grad(3 * value, leaf)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_devices_with_the_same_batch_train_as_one_alone(backend, device, monkeypatch):
    """Counts of a class are added up over them; whether one of them knows it is not. Validation asks no other one."""
    loss = CrossEntropyDice(smooth=0.0, backend=backend)
    logits, mask = random_map((2, 4, 5, 6), 1, device=device), torch.randint(0, 2, (2, 5, 6), device=device)
    known = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool, device=device)
    alone, asked = loss(logits, mask, known), []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("famseg.losses.all_reduce", lambda counts: asked.append(counts) or 2 * counts)
    torch.testing.assert_close(loss(logits, mask, known), alone)
    assert len(asked) == 1
    assert torch.equal(loss.eval()(logits, mask, known), alone)
    assert len(asked) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_shapes(dtype, device):
    for i, (b, c, h, w) in enumerate(random_shapes(200, seed=5)):
        shape = (b, 2 + c % 6, h, w)
        logits = 3 * random_map(shape, i, dtype, device, LAYOUTS[i % 3])
        assert_like_twin(*functions(shape, i, device), [logits], TOLERANCE[dtype])
