"""What `famseg cost` counts, against numbers worked out by hand."""

import csv

import pytest
import torch
from torch import nn

from famseg.cli import main
from famseg.cost import cost, equations, markdown, options
from famseg.layers.fam import FeatureAwareUpsample
from famseg.layers.ssd import ssd
from famseg.models import SIZES, FAMSeg


def values(**arguments):
    return [row["value"] for row in equations(**arguments)]


def test_the_equations_with_the_papers_kernel():
    # a map of 10 x 20: 7 * 200 * 7, 2 * 200 * 7, the same two as costs, 2 * 200 * 9; 49, 14 and 18 weights
    assert values(kernel=7, size=(10, 20)) == [9800, 2800, 2800, 9800, 3600, 49, 14, 18]


def test_the_equations_with_other_numbers():
    assert values(kernel=21, size=(4, 4), channels=3) == [21168, 2016, 2016, 21168, 864, 1323, 126, 54]


def test_the_equations_count_what_a_depthwise_convolution_does():
    strips = nn.Sequential(nn.Conv2d(3, 3, (1, 7), padding=(0, 3), groups=3, bias=False))
    strips.append(nn.Conv2d(3, 3, (7, 1), padding=(3, 0), groups=3, bias=False))
    found = cost(strips, (10, 20), channels=3)
    expected = values(kernel=7, size=(10, 20), channels=3)
    assert (found.macs, found.parameters) == (expected[2], expected[6])


def test_reassembly_by_hand():
    """FAM 8 -> 4 channels, Cd 2, K 3, on 30 positions; its autograd function is counted like any other work."""
    found = cost(FeatureAwareUpsample(8, 4, compressed=2, kernel=3), (6, 5), channels=8)
    compress, reduce = 30 * 8 * 2, 30 * 8 * 4
    reorganize = 30 * 2 * 9 * (4 * 9)
    reassemble = 30 * 4 * 9 * 4  # phases, taps, channels
    assert found.macs == compress + reduce + reorganize + reassemble
    assert found.parameters == (8 * 2 + 2) + 8 * 4 + (2 * 9 * 36 + 36) + 4


class Scan(nn.Module):
    """Two orders, two ways, one head of width 8, four states, chunks of 32."""

    def forward(self, image):
        x = image.view(-1, 2, 64, 1, 8).transpose(0, 1)
        B = C = x[..., 0, :4]
        return ssd(x, x[..., :2].transpose(3, 4), -x[:, 0, :2, :, 0].abs(), B, C)


def test_the_scan_by_hand():
    positions, chunk, chunks, states, width, orders, ways = 64, 32, 2, 4, 8, 2, 2
    products = orders * positions * chunk * states
    within = orders * positions * chunk * width  # both ways in one product
    own, leaving = (ways * orders * positions * states * width for _ in range(2))
    between = ways * orders * chunks * chunks * states * width
    assert cost(Scan(), (16, 64)).macs == products + within + own + between + leaving


def test_kept_maps_by_hand():
    """The convolutions keep their inputs, 1 and 4 channels, GELU its own, 4; the logits are nobody's input."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 3, 1))
    assert cost(model, (8, 12)).kept == (1 + 4 + 4) * 8 * 12 * 4


def test_a_map_that_is_kept_twice_counts_once():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            y = x * self.scale  # keeps x
            return y * y.flip(-1).flip(-1) + y.square()  # keep y, and a copy of it

    assert cost(Square(), (8, 12)).kept == 3 * 8 * 12 * 4


@pytest.mark.slow
def test_fake_tensors_keep_what_real_ones_keep():
    model = FAMSeg(**SIZES["N"]).train()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.untyped_storage()) or t, lambda t: t):
        model(torch.randn(2, 1, 64, 96))
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    real = sum({s.data_ptr(): s.nbytes() for s in kept if s.data_ptr() not in own}.values())
    assert cost(model, (64, 96)).kept == pytest.approx(real / 2, rel=1e-4)


@pytest.mark.slow
def test_gradient_checkpointing_keeps_less():
    plain, saving = (cost(FAMSeg(**SIZES["N"], checkpointing=flag), (64, 64)).kept for flag in (False, True))
    assert saving < 0.6 * plain


QUICK = ("famseg_n", "famseg_t", "unet", "bisenet_v2")  # each family's small ones; the others take seconds each
EVERY = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in options()]


@pytest.mark.parametrize("name", EVERY)
def test_every_model_of_the_configuration_is_counted(name, capsys):
    assert main(["cost", "--models", name, "--size", "64", "96"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {name} ")]
    parameters, macs, kept = (float(cell) for cell in row.split("|")[2:5])
    assert parameters > 0.1
    assert macs > 0
    assert kept > 0


@pytest.mark.slow
def test_the_files(tmp_path, capsys):
    files = ["--csv", str(tmp_path / "cost.csv"), "--markdown", str(tmp_path / "cost.md")]
    assert main(["cost", "--models", "famseg_n", "--size", "64", "64", *files]) == 0
    with (tmp_path / "cost.csv").open() as file:
        (row,) = csv.DictReader(file)
    found = cost(FAMSeg(**SIZES["N"]), (64, 64))
    assert {k: int(v) for k, v in row.items() if k != "model"} == {
        "parameters": found.parameters,
        "macs": found.macs,
        "kept": found.kept,
        "height": 64,
        "width": 64,
    }
    assert capsys.readouterr().out.strip() == (tmp_path / "cost.md").read_text().strip()


def test_the_table_is_aligned():
    table = markdown([{"name": "a", "value": 1.5}, {"name": "long", "value": 10.0}])
    assert table.splitlines() == ["| name | value |", "| ---- | ----: |", "| a    |  1.50 |", "| long | 10.00 |"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "famseg_x"], "model famseg_x: there is no such option. Choose from bisenet_v2, "),
        (["--kernel", "4"], "kernel 4, map 128 x 128, channels 1: give numbers from 1, and an odd kernel"),
        (["--models", "famseg_n", "--size", "16", "64"], "16 x 64 px is too small"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["cost", *arguments]) == 2
    assert message in capsys.readouterr().err
