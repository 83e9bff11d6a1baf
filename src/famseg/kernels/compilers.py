"""Threads that compile kernels and build what launches them, before the first launch would wait for either."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any


class Compilers(ThreadPoolExecutor):
    """For `triton.AsyncCompileMode`: who compiles a kernel builds its launcher, too.

    Triton 3.6 has the C compiler build an extension module for every signature (gcc: 0.2 s), keeps it on disk beside
    the kernels, and would come to it at the first launch of each. Triton 3.8 has one launcher for all, so that nothing
    is left to build here. No GPU is asked for anything: what is loaded there is loaded at the launch.
    """

    def __init__(self, threads: int, initializer: Callable[[], object]) -> None:
        super().__init__(threads, initializer=initializer)
        self._firsts: dict[tuple[Any, ...], Any] = {}  # kernels by signature

    def submit(self, compile_: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Have a kernel compiled; the promise is kept when its launcher is there as well."""
        return super().submit(self._compile, compile_, *arguments, **options)

    def _compile(self, compile_: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        kernel = compile_(*arguments, **options)
        with suppress(Exception):  # no C compiler, or another Triton: the launch builds it, or says why it cannot
            self._build_launcher(kernel)
        return kernel

    def _build_launcher(self, kernel: Any) -> None:
        """Once for all kernels of a signature; Triton finds it on disk when it makes this kernel's own."""
        import triton

        signature = tuple(kernel.src.signature.values())
        if self._firsts.setdefault(signature, kernel) is kernel:  # the others would build the same side by side
            triton.runtime.driver.active.launcher_cls(kernel.src, kernel.metadata)
