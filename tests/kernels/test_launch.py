"""Kernels that are set up while the one before ends, and that wait for it before anything else."""

import ast
from pathlib import Path

import pytest
import torch

import famseg.kernels
from famseg.kernels import launch
from famseg.kernels.bias_gelu import add_bias

SOURCES = [path.read_text() for path in sorted(Path(famseg.kernels.__file__).parent.glob("*.py"))]
KERNEL = "@triton.jit\ndef kernel(x):\n    '''About it.'''\n    {}\n"


def is_program(node):
    return isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in node.decorator_list)


def begins_with_follow(function):
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return ast.unparse(body[0]) == "follow()"


def launched(sources):
    """The kernels that `start` launches, by name, and whether they begin as they must."""
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    starts = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "start"]
    names = {ast.unparse(call.args[0]).rpartition(".")[2] for call in starts}
    kernels = [node for node in nodes if is_program(node) and node.name in names]
    assert names == {kernel.name for kernel in kernels}
    return [(kernel.name, begins_with_follow(kernel)) for kernel in kernels]


def launched_by_hand(sources):
    """What is launched as kernel[grid](...)."""
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call.func) for call in calls if isinstance(call.func, ast.Subscript)]


def test_every_kernel_waits_for_the_one_before_it():
    kernels = launched(SOURCES)
    assert len(kernels) >= 45
    assert [name for name, waits in kernels if not waits] == []
    assert launched_by_hand(SOURCES) == ["kernel[grid]"]  # in `start`


@pytest.mark.parametrize(
    ("first", "waits"),
    [("follow()", True), ("y = tl.load(x)\n    follow()", False), ("if x:\n        follow()", False)],
)
def test_one_that_does_not_is_found(first, waits):
    assert launched([KERNEL.format(first), "start(programs.kernel, (1,), x)"]) == [("kernel", waits)]
    assert launched_by_hand([KERNEL.format(first), "kernel[(1,)](x)"]) == ["kernel[1,]"]


@pytest.fixture
def options_of(monkeypatch):
    """The options with which `start` launches, where Triton compiles for a GPU of this capability or interprets."""

    def options(hopper, interpreted=False):
        monkeypatch.setattr(launch, "INTERPRETED", interpreted)
        monkeypatch.setattr(launch, "cuda_capability_geq", lambda major, minor: hopper)
        launch._overlapping.cache_clear()
        found = {}
        launch.start({(1,): lambda x, **options: found.update(options)}, (1,), torch.ones(1), num_warps=2)
        return found

    yield options
    launch._overlapping.cache_clear()


def test_only_gpus_that_can_get_the_option(options_of, monkeypatch):
    assert options_of(hopper=True) == {"num_warps": 2, "launch_pdl": True}
    assert options_of(hopper=False) == {"num_warps": 2}
    assert options_of(hopper=True, interpreted=True) == {"num_warps": 2}
    monkeypatch.setattr(launch, "OVERLAP", False)
    assert options_of(hopper=True) == {"num_warps": 2}


def chain(x, one):
    for _ in range(200):
        x = add_bias(x, one)
    return x


@pytest.mark.gpu
def test_a_chain_of_launches_in_a_graph():
    """Each adds 1 to what the one before wrote, in memory that an earlier one had."""
    x, one = torch.zeros(4, 64, 96, 96, device="cuda"), torch.ones(64, device="cuda")
    assert (chain(x, one) == 200).all()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y = chain(x, one)
    for start in range(20):
        x.fill_(start)
        graph.replay()
        assert (y == start + 200).all()
