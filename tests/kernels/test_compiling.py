"""Within `compiling` nothing is launched, by no thread of the pass; a stand-in for Triton shows what is compiled."""

import contextvars
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from concurrent.futures import as_completed
from functools import partial

import pytest
import torch

from famseg.kernels import compilers, launch
from famseg.kernels.launch import compiling, start
from famseg.signals import STOPS, taken

MODE = contextvars.ContextVar("mode", default=None)


class Mode:
    """As `triton.AsyncCompileMode`: it waits at its end, and for the thread that is in it alone."""

    def __init__(self, executor, *, ignore_errors):
        self.executor, self.raw_futures = executor, []
        assert ignore_errors

    def __enter__(self):
        MODE.set(self)
        return self

    def __exit__(self, *_):
        list(as_completed(self.raw_futures))
        MODE.set(None)


class Kernel:
    """As a `triton.JITFunction`."""

    def __init__(self):
        self.launched, self.specialised, self.compiled, self.promises = [], [], [], []
        self.compile = lambda: compiled({"x": "*fp32"})
        self.src = "def kernel(x): ..."

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.launched.append((grid, arguments, options))

    def warmup(self, *arguments, grid, **options):
        self.specialised.append((grid, arguments, options))
        mode = MODE.get()
        self.promises.append(mode.executor.submit(self._compile))
        mode.raw_futures.append(self.promises[-1])

    def _compile(self):
        kernel = self.compile()
        self.compiled.append(threading.get_ident())
        return kernel


def compiled(signature):
    """As a `triton.compiler.CompiledKernel`."""
    return types.SimpleNamespace(src=types.SimpleNamespace(signature=signature), metadata="of it")


class Launcher:
    """As CUDA's: made of a kernel, with a C compiler."""

    def __init__(self):
        self.built, self.threads, self.build = [], set(), lambda: None

    def __call__(self, source, metadata):
        assert metadata == "of it"
        self.built.append(source.signature)
        self.threads.add(threading.get_ident())
        self.build()


class Launches(torch.autograd.Function):
    """Starts a kernel in forward and in backward."""

    @staticmethod
    def forward(ctx, x, kernel):
        ctx.kernel = kernel
        start(kernel, (1,), x, way="forward")
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        start(ctx.kernel, (2,), grad, way="backward")
        return grad, None


@pytest.fixture
def launcher():
    return Launcher()


@pytest.fixture(autouse=True)
def triton(monkeypatch, launcher):
    driver = types.SimpleNamespace(active=types.SimpleNamespace(launcher_cls=launcher))
    runtime = types.SimpleNamespace(driver=driver)
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(AsyncCompileMode=Mode, runtime=runtime))
    monkeypatch.setattr(launch, "_has_triton", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "0")


@pytest.fixture
def kernel():
    return Kernel()


def in_a_thread(function):
    """As autograd's threads: without the context of this one."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_kernel_is_compiled_and_later_launched(kernel):
    x = torch.zeros(2)
    with compiling():
        start(kernel, (3,), x, 5, BLOCK=16)
        assert not kernel.compiled, "the pass comes first, or threads would slow it down"
    assert kernel.specialised == [((3,), (x, 5), {"BLOCK": 16})]
    assert kernel.compiled
    assert not kernel.launched
    start(kernel, (3,), x, 5, BLOCK=16)
    assert kernel.launched == kernel.specialised


def test_so_is_that_of_backward(kernel):
    """A GPU's backward has its own thread; a CPU's has the caller's, and is put into another one here."""
    x = torch.zeros(2, requires_grad=True)
    with compiling():
        y = Launches.apply(x, kernel)
        in_a_thread(lambda: y.sum().backward())
    assert [options["way"] for _, _, options in kernel.specialised] == ["forward", "backward"]
    assert len(kernel.compiled) == 2
    assert not kernel.launched


def test_other_threads_go_on_to_launch(kernel):
    """One that predicts meanwhile needs true values."""
    with compiling():
        in_a_thread(lambda: start(kernel, (1,), torch.zeros(2)))
    assert len(kernel.launched) == 1
    assert not kernel.specialised


def test_a_librarys_own_kernels_do_not_wait(kernel):
    """Triton would have them compiled by the threads, which begin when the pass has ended."""
    with compiling():
        start(kernel, (1,), torch.zeros(2))
        assert MODE.get() is None
    assert kernel.compiled


def test_another_thread_may_end_first(kernel, monkeypatch):
    """Between a thread's question whether to compile and its doing so."""

    def end():
        launch._compile = None
        return True

    monkeypatch.setattr(launch, "_is_ours", end)
    with compiling():
        start(kernel, (1,), torch.zeros(2))
    assert kernel.compiled


def test_what_cannot_be_compiled_is_left_to_its_launch(kernel):
    def fail():
        raise ValueError("no such type")

    kernel.compile = fail
    with compiling():
        start(kernel, (1,), torch.zeros(2))
    assert not kernel.compiled
    start(kernel, (1,), torch.zeros(2))
    assert kernel.launched


def test_so_is_what_launches_it(kernel, launcher):
    with compiling():
        start(kernel, (1,), torch.zeros(2))
    assert launcher.built == [{"x": "*fp32"}]


def test_a_launcher_that_cannot_be_built_is_left_to_the_launch(kernel, launcher, monkeypatch):
    def fail():
        raise RuntimeError("Failed to find C compiler.")

    launcher.build = fail
    finished = []
    monkeypatch.setattr(Mode, "__exit__", lambda self, *_: finished.extend(f.result() for f in self.raw_futures))
    with compiling():
        start(kernel, (1,), torch.zeros(2))
    assert launcher.built
    assert [each.metadata for each in finished] == ["of it"], "the kernel is there"


@pytest.mark.gpu
def test_no_launch_waits_for_a_compiler(outcome, tmp_path):
    """Where nothing lies in Triton's cache, nor in that of this process."""
    started = outcome("launch_program.py")
    assert list(tmp_path.rglob("*.cubin"))
    assert started == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("error", "compiled"), [(RuntimeError, 100), (KeyboardInterrupt, 0)])
def test_of_a_pass_that_fails_all_is_compiled_unless_the_user_ends_it(kernel, error, compiled):
    """The rest is compiled by its launch: Triton keeps the promise, not the kernel."""

    def fail():
        for _ in range(100):
            start(kernel, (1,), torch.zeros(2))
        raise error

    with pytest.raises(error), compiling():
        fail()
    assert len(kernel.compiled) == compiled
    assert [promise.result().metadata for promise in kernel.promises] == ["of it"] * 100
    assert len(kernel.compiled) == 100
    start(kernel, (1,), torch.zeros(2))
    assert len(kernel.launched) == 1


def test_another_thread_that_launches_the_same_kernel_does_not_wait_for_the_pass(kernel):
    with compiling():
        start(kernel, (1,), torch.zeros(2))
        in_a_thread(kernel.promises[0].result)
        assert len(kernel.compiled) == 1
    assert len(kernel.compiled) == 1


@pytest.mark.parametrize("without", ["triton", "compiler"])
def test_where_nothing_is_compiled_kernels_run(kernel, monkeypatch, without):
    if without == "triton":
        monkeypatch.setattr(launch, "_has_triton", lambda: False)
    else:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    with compiling():
        start(kernel, (1,), torch.zeros(2))
    assert len(kernel.launched) == 1
    assert not kernel.specialised


class Compiled:
    """Files that say which process has compiled which kernel, as Triton's cache has the kernels."""

    def __init__(self, folder, monkeypatch, cores=3):
        self.folder = folder
        monkeypatch.setattr(compilers, "cores", lambda: cores)
        monkeypatch.setattr(compilers, "PATIENCE", 0.0)

    def __call__(self, index, then=lambda: None):
        (self.folder / f"{index}-{os.getpid()}-{time.monotonic_ns()}").touch()
        then()
        return compiled({"x": "*fp32"})

    @property
    def processes(self):
        names = [path.name.split("-") for path in self.folder.iterdir()]
        return [(int(index), int(pid)) for index, pid, _ in sorted(names, key=lambda name: int(name[2]))]


@pytest.fixture
def forks(tmp_path, monkeypatch):
    return Compiled(tmp_path, monkeypatch)


def each(*calls):
    """A kernel for each call."""
    kernels = []
    for call in calls:
        kernels.append(Kernel())
        kernels[-1].compile = call
    return kernels


def run(kernels):
    with compiling():
        for one in kernels:
            start(one, (1,), torch.zeros(2))


def test_forks_compile_each_once_and_this_process_takes_it_from_them(forks):
    run(each(*(partial(forks, i, partial(time.sleep, 0.05)) for i in range(12))))
    others = [(index, pid) for index, pid in forks.processes if pid != os.getpid()]
    assert sorted(index for index, _ in others) == list(range(12))
    assert len({pid for _, pid in others}) == 3
    assert forks.processes[12:] == [(i, os.getpid()) for i in range(12)]


def test_long_kernels_come_first(forks):
    kernels = each(*(partial(forks, i, partial(time.sleep, 0.01)) for i in range(12)))
    for i, one in enumerate(kernels):
        one.src *= i + 1
    run(kernels)
    others = {pid: [i for i, of in forks.processes if of == pid] for _, pid in forks.processes if pid != os.getpid()}
    assert sum(len(indices) for indices in others.values()) == 12
    for indices in others.values():
        assert indices == sorted(indices, reverse=True)


def test_what_is_quickly_done_is_done_here(forks, monkeypatch):
    monkeypatch.setattr(compilers, "PATIENCE", 60.0)
    run(each(*(partial(forks, i) for i in range(5))))
    assert forks.processes == [(i, os.getpid()) for i in range(5)]


def test_one_core_has_no_forks(tmp_path, monkeypatch):
    forks = Compiled(tmp_path, monkeypatch, cores=1)
    run(each(*(partial(forks, i) for i in range(3))))
    assert forks.processes == [(i, os.getpid()) for i in range(3)]


def test_what_a_fork_dies_of_is_left_to_this_process(forks):
    here = os.getpid()
    run(each(*(partial(forks, i, lambda: os.getpid() == here or os._exit(1)) for i in range(5))))
    assert [index for index, pid in forks.processes if pid == here] == list(range(5))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("in_fork", [True, False])
def test_who_interrupts_waits_for_nobody(forks, in_fork):
    here = os.getpid()

    def interrupt(index):
        if (os.getpid() != here) == in_fork and index == 0:
            time.sleep(0.5)  # in the middle of a fork Python drops what a handler raises
            os.kill(here, signal.SIGINT)
        time.sleep(40 if os.getpid() != here and in_fork else 0.1)

    kernels = each(*(partial(forks, i, partial(interrupt, i)) for i in range(6)))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(kernels)
    assert time.monotonic() - began < 30
    assert not multiprocessing.active_children()
    assert all(kernel.promises[0].result(1).metadata == "of it" for kernel in kernels[1:3])


def test_one_process_at_a_time_has_forks(forks):
    """The next one finds what the first has compiled, here as files of the same kernels."""

    def compile_(index):
        if any(one == index for one, _ in forks.processes):
            return compiled({"x": "*fp32"})  # as it was read
        time.sleep(0.2)
        return forks(index)

    kernels = each(*(partial(compile_, i) for i in range(6)))
    first = multiprocessing.get_context("fork").Process(target=run, args=(kernels,))
    first.start()
    time.sleep(0.1)
    run(kernels)
    first.join()
    assert sorted(index for index, _ in forks.processes) == list(range(6))


@pytest.mark.parametrize("number", STOPS)
def test_what_a_cluster_tells_all_processes_is_heard_here_alone(forks, number):
    """A run's handlers end it, or save for it; its forks go on until it says otherwise."""
    here = os.getpid()

    def tell():
        if os.getpid() != here:
            os.kill(os.getpid(), number)

    with taken(lambda *_: forks(99)):
        run(each(*(partial(forks, i, tell) for i in range(6))))
    assert sorted(index for index, pid in forks.processes if pid != here) == list(range(6))


@pytest.mark.timeout(60)
def test_forks_end_with_a_process_that_is_killed(forks):
    """For as long as they live the GPU's memory is taken."""
    kernels = each(*(partial(forks, i, partial(time.sleep, 0.2)) for i in range(100)))
    parent = multiprocessing.get_context("fork").Process(target=run, args=(kernels,))
    parent.start()
    while not forks.processes:
        time.sleep(0.05)
    parent.kill()
    parent.join()
    time.sleep(0.4)  # twice what a kernel takes
    count = len(forks.processes)
    time.sleep(0.4)
    assert len(forks.processes) == count < 100


@pytest.mark.parametrize("lacking", [(multiprocessing.process.BaseProcess, "start"), (os, "pipe")])
def test_without_memory_or_files_for_forks_it_is_done_here(forks, monkeypatch, lacking):
    def refuse(*_):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(*lacking, refuse)
    run(each(*(partial(forks, i) for i in range(3))))
    assert forks.processes == [(i, os.getpid()) for i in range(3)]


def test_a_word_to_those_who_wait(kernel, forks, monkeypatch, caplog):
    monkeypatch.setattr(compilers, "cores", lambda: 40)
    kernel.compile = partial(forks, 0)
    with caplog.at_level("INFO"):
        run([kernel] * 3)
    assert caplog.messages == ["Compiling 3 GPU kernels on 3 cores; later runs find them in Triton's cache."]
