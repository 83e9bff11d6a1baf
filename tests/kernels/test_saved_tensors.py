"""Gradient checkpointing lets a backward formula ask for its saved tensors once."""

import ast
from pathlib import Path

import pytest

import famseg.kernels

PATHS = sorted(Path(famseg.kernels.__file__).parent.glob("*.py"))


def readings(source):
    """How often each function asks for them."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    attributes = [[node for node in ast.walk(f) if isinstance(node, ast.Attribute)] for f in functions]
    return [sum(a.attr == "saved_tensors" for a in each) for each in attributes]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_formula_asks_twice(path):
    assert max(readings(path.read_text()), default=0) <= 1


def test_the_count():
    assert readings("def f(ctx):\n    x, = ctx.saved_tensors\n    return x, *ctx.saved_tensors") == [2]
