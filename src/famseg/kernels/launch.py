"""How kernels start, and how all those of a pass are compiled before it: side by side instead of one by one."""

import contextvars
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from famseg.kernels import _has_triton
from famseg.kernels.compilers import Compilers

_compile: Callable[..., None] | None = None  # no context variable: backward runs in threads of autograd's own
_owner = 0  # the thread that compiles: another one may predict meanwhile, and must


def start(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a Triton kernel on the GPU of its first argument, a tensor; within `compiling`, only have it compiled."""
    x: Tensor = arguments[0]
    with torch.cuda.device_of(x):
        compile_ = _compile  # another thread may end its own `compiling` meanwhile
        if compile_ is not None and _is_ours():
            compile_(kernel, *arguments, grid=grid, **options)
        else:
            kernel[grid](*arguments, **options)


@contextmanager
def compiling() -> Iterator[None]:
    """Within it, this thread and its backward passes launch no kernel; at its end all these kernels are compiled.

    What they would have computed is whatever lay in memory. What a pass launches is known by its end, when nothing of
    it need be kept any more; only then are they compiled (`Compilers`), and their launchers built, so that no launch
    waits for a compiler. Of a pass that fails, those are compiled that it came to. A kernel that cannot be compiled
    says so when it is launched. Where Triton has nothing to compile, without a GPU or in its interpreter, kernels are
    launched as ever. So they are, each compiled at its launch, where the user ends the pass or the compilation.
    """
    global _compile, _owner
    if not compiles():
        yield
        return
    from triton import AsyncCompileMode

    compilers = Compilers()
    # Triton finds the mode in it and nowhere else: autograd's threads have another one, and a kernel that a library
    # launches by itself, mamba-ssm or torch, would wait for the pass's end forever
    context = contextvars.copy_context()
    with _entered(AsyncCompileMode(compilers, ignore_errors=True), context):

        def compile_(kernel: Any, *arguments: Any, **options: Any) -> None:
            compilers.length = len(kernel.src)
            context.copy().run(kernel.warmup, *arguments, **options)

        _owner, _compile = threading.get_ident(), compile_
        try:
            yield
        except (KeyboardInterrupt, SystemExit):  # nobody would wait
            compilers.cancel()
            raise
        finally:  # of a pass that failed, too: what it came to is launched again
            _compile = None
            compilers.run()


def compiles() -> bool:
    """Whether Triton has anything to compile here."""
    return _has_triton() and os.environ.get("TRITON_INTERPRET") != "1"


@contextmanager
def _entered(mode: Any, context: contextvars.Context) -> Iterator[Any]:
    """A context manager, entered in a context of its own."""
    context.run(mode.__enter__)
    try:
        yield mode
    finally:
        mode.raw_futures[:] = [future for future in mode.raw_futures if future.done()]  # it would wait for the others
        context.run(mode.__exit__, None, None, None)


def _is_ours() -> bool:
    return threading.get_ident() == _owner or torch._C._current_graph_task_id() != -1  # the latter: in backward
