"""How kernels start, and how all those of a pass are compiled before it: side by side instead of one by one."""

import contextvars
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from famseg.kernels import _has_triton
from famseg.kernels.compilers import Compilers

log = logging.getLogger(__name__)

THREADS = 16  # at the most: Triton's front end is Python, in one thread at a time; its passes, ptxas and gcc are not
PATIENCE = 2.0  # seconds of waiting without a word

_compile: Callable[..., None] | None = None  # no context variable: backward runs in threads of autograd's own
_owner = 0  # the thread that compiles: another one may predict meanwhile, and must


def start(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a Triton kernel on the GPU of its first argument, a tensor; within `compiling`, only have it compiled."""
    x: Tensor = arguments[0]
    with torch.cuda.device_of(x):
        compile_ = _compile  # another thread may end its own `compiling` meanwhile
        if compile_ is not None and _is_ours():
            compile_(kernel.warmup, *arguments, grid=grid, **options)
        else:
            kernel[grid](*arguments, **options)


@contextmanager
def compiling() -> Iterator[None]:
    """Within it, this thread and its backward passes launch no kernel; at its end all these kernels are compiled.

    What they would have computed is whatever lay in memory. What a pass launches is known by its end, when nothing of
    it need be kept any more; only then do threads begin. They build the kernels' launchers, too, so that no launch
    waits for a compiler. Of a pass that fails, those are compiled that it came to. A kernel that cannot be compiled
    says so when it is launched. Where Triton has nothing to compile, without a GPU or in its interpreter, kernels are
    launched as ever.
    """
    global _compile, _owner
    if not compiles():
        yield
        return
    from triton import AsyncCompileMode

    threads = min(THREADS, _cores())
    begin = threading.Event()
    pool = Compilers(threads, initializer=begin.wait)
    # Triton finds the mode in it and nowhere else: autograd's threads have another one, and a kernel that a library
    # launches by itself, mamba-ssm or torch, would wait for `begin` forever
    context = contextvars.copy_context()
    with _entered(AsyncCompileMode(pool, ignore_errors=True), context) as mode:

        def compile_(warmup: Any, *arguments: Any, **options: Any) -> None:
            context.copy().run(warmup, *arguments, **options)

        _owner, _compile = threading.get_ident(), compile_
        try:
            yield
            begin.set()
            _wait(mode.raw_futures, threads)
        except (KeyboardInterrupt, SystemExit):  # nobody would wait
            for each in mode.raw_futures:
                each.cancel()
            raise
        finally:  # of a pass that failed, too: Triton keeps a kernel's promise; a cancelled one raises at its launch
            _compile = None
            begin.set()
            pool.shutdown(wait=False)


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
        context.run(mode.__exit__, None, None, None)


def _is_ours() -> bool:
    return threading.get_ident() == _owner or torch._C._current_graph_task_id() != -1  # the latter: in backward


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wait(compiled: Sequence[Future[Any]], threads: int) -> None:
    """Until all are there, and say what for."""
    waiting = wait(compiled, PATIENCE).not_done
    if waiting:
        text = "Compiling %d GPU kernels on %d cores; later runs find them in Triton's cache."
        log.info(text, len(waiting), threads)
        wait(waiting)
