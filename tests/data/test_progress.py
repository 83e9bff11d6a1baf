"""Work on many files: results in order and errors as they are, by threads and by processes."""

import io
import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.file_proxy import FileProxy

from famseg.data import progress
from famseg.errors import UserError
from famseg.signals import Preempted, leaving


@pytest.fixture(params=["threads", "processes"])
def by(request, monkeypatch):
    """Has few items done by processes, too."""
    if request.param == "processes" and sys.platform != "linux":
        pytest.skip("no forks here")
    monkeypatch.setattr(progress, "cores", lambda: 2)
    monkeypatch.setattr(progress, "MANY", 2 if request.param == "processes" else 1000)
    return request.param


def test_results_come_in_the_order_of_the_items(by):
    def work(number):
        time.sleep(0.0004 * (50 - number))
        return number * 10, os.getpid() == here

    here = os.getpid()
    results = list(progress.parallel(work, range(50), "Working"))
    assert [number for number, _ in results] == [10 * number for number in range(50)]
    assert {is_here for _, is_here in results} == {by == "threads"}


def test_arrays_come_as_they_are(by):
    results = list(progress.parallel(lambda n: (np.full((2, 3), n, np.uint8), n), range(9), "Working"))
    for number, (array, same) in enumerate(results):
        assert array.dtype == np.uint8
        assert (array == number).all()
        assert same == number


class Strange(Exception):
    """Cannot travel."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("error", "seen", "message"),
    [
        (UserError("a.png: is no image."), UserError, "^a.png: is no image.$"),
        (Strange("this", "that"), Exception, "this and that"),
    ],
)
def test_what_goes_wrong_first_is_raised(by, error, seen, message):
    def work(number):
        if number == 7:
            raise error
        return 1 / (number - 30)

    taken = []
    with pytest.raises(seen, match=message):
        taken.extend(progress.parallel(work, range(60), "Working"))
    assert not multiprocessing.active_children()


def test_who_stops_early_leaves_nothing(by):
    results = progress.parallel(lambda number: number, range(1000), "Working")
    assert next(results) == 0
    results.close()
    assert not multiprocessing.active_children()


def test_random_numbers_of_the_run_are_left_alone(by):
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    list(progress.parallel(abs, range(10), "Working"))
    assert torch.equal(torch.rand(3), wanted)


def test_a_process_that_may_have_none_uses_threads(monkeypatch):
    monkeypatch.setattr(progress, "MANY", 2)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert set(progress.parallel(lambda _: os.getpid(), range(10), "Working")) == {os.getpid()}


def test_processes_go_on_when_a_cluster_tells_all_of_a_job(monkeypatch):
    """Whether to stop is decided where the results go."""
    monkeypatch.setattr(progress, "MANY", 2)
    monkeypatch.setattr(progress, "cores", lambda: 2)

    def work(number):
        os.kill(os.getpid(), signal.SIGTERM)
        return number

    assert list(progress.parallel(work, range(10), "Working")) == list(range(10))


@pytest.mark.skipif(sys.platform != "linux", reason="no forks here")
def test_processes_do_not_write_through_what_shows_progress(monkeypatch):
    """Rich puts itself in the place of stderr; who warned in a process could wait for its lock for ever.

    What the user puts there stays: all that waits in the stream behind it would be written by every process.
    """
    monkeypatch.setattr(progress, "MANY", 2)
    monkeypatch.setattr(progress, "cores", lambda: 2)
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", FileProxy(Console(), err))
    assert all(progress.parallel(lambda _: sys.stdout is out and sys.stderr is err, range(10)))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)])
def test_who_is_stopped_leaves_nothing(by, number, error):
    here = os.getpid()

    def work(item):
        if item == 9:
            os.kill(here, number)
        time.sleep(0.001)
        return item

    with pytest.raises(error) as caught, leaving():
        list(progress.parallel(work, range(900)))
    left = multiprocessing.active_children()
    for process in left:  # the tests would not end either
        process.kill()
    assert not left
    del caught  # until here its traceback holds all that it went through, as it does where Python exits by it


@pytest.mark.parametrize(("after", "shown"), [(0.0, True), (60.0, False)])
def test_a_line_is_shown_only_when_it_takes_a_while(monkeypatch, capsys, after, shown):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setattr(progress, "SHOW_AFTER_S", after)
    list(progress.parallel(abs, [1, 2], "Working"))
    assert ("Working" in capsys.readouterr().err) == shown


@pytest.mark.parametrize(("terminal", "what"), [(False, "Working"), (True, None)])
def test_nothing_is_printed_into_a_log_or_beside_another_line(monkeypatch, capsys, terminal, what):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "SHOW_AFTER_S", 0.0)
    list(progress.parallel(abs, [1, 2], what))
    assert capsys.readouterr() == ("", "")
