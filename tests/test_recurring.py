"""A function whose inputs have the same few shapes is captured once for each, and plain where it cannot be."""

from contextlib import contextmanager

import pytest
import torch

from famseg import recurring
from famseg.recurring import Recurring


@pytest.fixture
def captures():
    """What is captured on a machine that can capture nothing: lengths of the inputs in order, by a `capture`."""
    lengths = []

    def capture(function, *inputs):
        lengths.append(len(inputs[0]))
        return lambda *new: function(*new) + 100.0

    capture.lengths = lengths
    return capture


def test_a_shape_that_comes_again_is_captured(captures):
    function = Recurring(lambda a, b: (a * b).mean(), "multiplied", captures)
    values = [function(torch.full((n,), float(n)), torch.ones(n)).item() for n in (1, 2, 1, 1, 2, 1)]
    assert values == [1, 2, 101, 101, 102, 101]
    assert captures.lengths == [1, 2]


def test_any_of_the_shapes_counts(captures):
    function = Recurring(lambda a, b: a.sum() + b.sum(), "added", captures)
    for n in (1, 2, 1):
        function(torch.zeros(3), torch.zeros(n))
    assert captures.lengths == [3]


def test_the_graphs_used_last_are_kept(captures):
    function = Recurring(lambda a: a, "kept", captures, most=2)
    for n in (1, 1, 2, 2, 1, 3, 3, 1, 2, 2):
        function(torch.zeros(n))
    assert captures.lengths == [1, 2, 3, 2]


def test_inference_mode_has_graphs_of_its_own(captures):
    function = Recurring(lambda a: a, "kept", captures)
    for inference in (True, False, True, False):
        with torch.inference_mode(inference):
            function(torch.zeros(1))
    assert captures.lengths == [1, 1]


def test_kernels_of_a_new_shape_are_compiled_before_they_run(captures, monkeypatch):
    events = []

    @contextmanager
    def compiling():
        events.append("compile")
        yield
        events.append("compiled")

    monkeypatch.setattr(recurring, "compiling", compiling)
    monkeypatch.setattr(recurring, "compiles", lambda: True)
    function = Recurring(lambda a: events.append(len(a)) or a, "kept", captures)
    for n in (1, 2, 1, 2):
        function(torch.zeros(n))
    assert events == ["compile", 1, "compiled", 1, "compile", 2, "compiled", 2, 1, 2]


def test_a_function_that_minds_what_lies_in_memory_is_called_all_the_same(captures, monkeypatch):
    """Kernels that are only compiled write nothing; or there is no memory for one pass more."""
    compiling = []

    @contextmanager
    def within():
        compiling.append(True)
        try:
            yield
        finally:
            compiling.clear()

    def function(a):
        if compiling:
            raise RuntimeError("not finite")
        return a

    monkeypatch.setattr(recurring, "compiling", within)
    monkeypatch.setattr(recurring, "compiles", lambda: True)
    assert torch.equal(Recurring(function, "kept", captures)(torch.ones(1)), torch.ones(1))


def test_where_nothing_is_compiled_the_function_runs_once(monkeypatch):
    monkeypatch.setattr(recurring, "compiles", lambda: False)
    calls = []
    Recurring(calls.append, "kept")(torch.zeros(1))
    assert len(calls) == 1


def test_what_cannot_be_captured_goes_through_the_function(caplog):
    def refuse(function, *inputs):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    function = Recurring(lambda a: a + 1, "validated", refuse)
    with caplog.at_level("INFO"):
        for _ in range(3):
            assert function(torch.ones(1, 4)).sum() == 8
    assert caplog.messages == [
        "(1, 4) is validated without a CUDA graph: operation not permitted when stream is capturing"
    ]
