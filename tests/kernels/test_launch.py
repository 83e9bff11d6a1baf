"""Kernels start in one way, so that each runs on the GPU of its map."""

import ast
from pathlib import Path

import famseg.kernels

SOURCES = [path.read_text() for path in sorted(Path(famseg.kernels.__file__).parent.glob("*.py"))]


def launched_by_hand(sources):
    """What is launched as kernel[grid](...)."""
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call.func) for call in calls if isinstance(call.func, ast.Subscript)]


def test_nothing_but_start_launches_a_kernel():
    assert launched_by_hand(SOURCES) == ["kernel[grid]"]
    assert launched_by_hand(["def f(x):\n    mean_kernel[(1,)](x)"]) == ["mean_kernel[1,]"]
