import torch

from famseg.layers.basic import ScaledResidual


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    residual = ScaledResidual(2, drop_rate=0.25)
    branch = torch.ones(4000, 2, 1, 1)
    y = residual(torch.zeros_like(branch), branch)
    assert torch.equal(y[:, 0], y[:, 1])
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 0.01 / 0.75]))
    assert abs(y.mean().item() - 0.01) < 5e-4


def test_evaluation_drops_nothing():
    residual = ScaledResidual(2, drop_rate=0.9).eval()
    x, branch = torch.randn(8, 2, 3, 3), torch.randn(8, 2, 3, 3)
    torch.testing.assert_close(residual(x, branch), x + 0.01 * branch)


def test_keeps_half_precision():
    residual = ScaledResidual(2)
    x = torch.randn(1, 2, 3, 3, dtype=torch.bfloat16)
    assert residual(x, x.float()).dtype == torch.bfloat16
