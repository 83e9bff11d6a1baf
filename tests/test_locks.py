"""A lock excludes other processes and dies with its own."""

import subprocess
import sys

import pytest

from famseg import locks
from famseg.errors import UserError

HOLD = """
import pathlib, sys
from famseg.locks import locked
with locked(pathlib.Path(sys.argv[1]), "run"):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_by_name(holder, tmp_path):
    assert locks.is_locked(tmp_path)
    with pytest.raises(UserError, match=f"a sweep in it is running .process {holder.pid} on"):
        locks.locked(tmp_path, "sweep").__enter__()


def test_a_question_for_the_lock_refuses_nobody(holder, tmp_path, monkeypatch):
    """`is_locked` takes the lock for a moment: whoever finds it taken looks again."""
    pauses = []

    def let_go(seconds):
        pauses.append(seconds)
        holder.kill()
        holder.wait()

    monkeypatch.setattr(locks.time, "sleep", let_go)
    with locks.locked(tmp_path, "run"):
        assert pauses == [locks.PAUSES[0]]


def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert locks.is_locked(tmp_path) is False
    with locks.locked(tmp_path, "sweep"):
        assert locks.is_locked(tmp_path)
    assert not locks.is_locked(tmp_path)


def test_one_process_does_not_take_a_folder_twice(tmp_path):
    with locks.locked(tmp_path, "run"), pytest.raises(UserError, match="already"):
        locks.locked(tmp_path, "run").__enter__()


def test_a_folder_that_is_none_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/\.lock: could not be written"):
        locks.locked(tmp_path / "file", "run").__enter__()


def test_nothing_is_locked_where_nothing_is(tmp_path):
    assert locks.is_locked(tmp_path / "missing") is False
