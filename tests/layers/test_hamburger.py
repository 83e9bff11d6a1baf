import subprocess
import sys

import pytest
import torch

from famseg.errors import UserError
from famseg.layers.hamburger import NMF, Hamburger

FINGERPRINT = """
import torch
from famseg.layers.hamburger import NMF
x = torch.rand(1, 30, 32, generator=torch.Generator().manual_seed(1))
print(NMF(32, 4).eval()(x).double().sum().item())
"""


def positions(batch=2, count=30, channels=32, dtype=torch.float32):
    return torch.rand(batch, count, channels, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_evaluation_never_changes():
    ham = NMF(32, 4).eval()
    torch.manual_seed(1)
    first = ham(positions())
    torch.manual_seed(2)
    assert torch.equal(ham(positions()), first)
    assert torch.equal(NMF(32, 4).eval()(positions()), first)


def test_evaluation_is_the_same_in_another_process():
    there = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True).stdout
    here = NMF(32, 4).eval()(positions(batch=1)).double().sum().item()
    assert float(there) == pytest.approx(here, rel=1e-6)


def test_the_basis_travels_with_the_state():
    ham, other = NMF(32, 4), NMF(32, 4)
    ham.basis.copy_(torch.rand(32, 4))
    other.load_state_dict(ham.state_dict())
    assert torch.equal(other.eval()(positions()), ham.eval()(positions()))


def test_training_draws_one_basis_a_step_from_the_default_generator():
    ham = NMF(32, 4).train()
    torch.manual_seed(1)
    first = ham(positions(batch=1).expand(2, -1, -1))
    assert torch.equal(first[0], first[1])
    assert not torch.equal(ham(positions(batch=1)), first[:1])
    torch.manual_seed(1)
    assert torch.equal(ham(positions(batch=1)), first[:1])


def test_factorises_a_matrix_of_its_rank():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 40, 3, generator=generator) @ torch.rand(1, 3, 32, generator=generator)
    few, many = (NMF(32, 3, eval_steps=steps).eval()(x) for steps in (1, 2000))
    assert (many - x).norm() < 0.02 * x.norm() < (few - x).norm()


def test_one_step_gradient():
    ham = NMF(32, 4).eval().double()
    x = positions(dtype=torch.float64).requires_grad_()
    calls = []
    original = NMF._update_code

    def last_update(matrix, basis, code):
        calls.append((basis, code))
        return original(matrix, basis, code)

    ham._update_code = last_update
    (grad,) = torch.autograd.grad(ham(x).square().sum(), x)
    basis, code = calls[-1]
    expected = torch.autograd.grad((original(x, basis.detach(), code.detach()) @ basis.detach().mT).square().sum(), x)[
        0
    ]
    torch.testing.assert_close(grad, expected)


def test_float32_inside_autocast():
    layer = Hamburger(32, 4).eval()
    seen = []
    layer.ham.register_forward_hook(lambda module, args, out: seen.append((args[0].dtype, out.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(1, 32, 4, 4).bfloat16())
    assert seen == [(torch.float32, torch.float32)]


def test_width_must_fit_the_groups_of_its_norm():
    with pytest.raises(UserError, match=r"model.context_width=40 .*multiple of 32"):
        Hamburger(40, 4)
