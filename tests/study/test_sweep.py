"""Which cells a sweep runs, and what it says: with an engine that only writes what became of them."""

import json
from pathlib import Path

import pytest

from famseg.errors import UserError
from famseg.study.cells import read_study
from famseg.study.sweep import Job, different, run_sweep, summary, write_plan
from famseg.study.work import Work


def job(folder, **config):
    work = Work(Path(folder), None, None, None, None, "", ())
    return Job(work, [f"seed={config.get('seed', 0)}"], {"model": "famseg_t"}, config)


def write(folder, state, error=None):
    folder.mkdir(exist_ok=True)
    (folder / "status.json").write_text(json.dumps({"state": state, "error": error}))


class Engine:
    """Leaves every cell as told, "done" if not told."""

    def __init__(self, **ends):
        self.ends, self.ran = ends, []

    def __call__(self, works):
        for work in works:
            name = work.folder.name
            self.ran.append(name)
            state = self.ends.get(name, "done")
            write(work.folder, "running" if state == "killed" else state, "ValueError: no")
            yield work, "killed by SIGKILL" if state == "killed" else ""


@pytest.fixture
def jobs(tmp_path):
    return [job(tmp_path / name, seed=seed) for seed, name in enumerate("abcd")]


def test_failures_stop_nothing_and_are_named(jobs, caplog):
    caplog.set_level("INFO")
    engine = Engine(b="failed", c="killed")
    cells = run_sweep(jobs, engine, None)
    assert engine.ran == ["a", "b", "c", "d"]
    assert [cell.state for cell in cells.values()] == ["done", "failed", "lost", "done"]
    assert "2 of 4: b: failed (ValueError: no)" in caplog.text
    assert "c: lost (killed by SIGKILL)" in caplog.text
    assert "2 of 4 cells are done" in caplog.text


@pytest.mark.parametrize(("retry", "ran"), [(None, ["c"]), ("failed", ["b", "c"])])
def test_the_second_start_runs_what_is_left(jobs, retry, ran, caplog):
    caplog.set_level("INFO")
    run_sweep(jobs, Engine(b="failed", c="killed"), None)
    second = Engine()
    cells = run_sweep(jobs, second, retry)
    assert second.ran == ran
    assert {cell.state for cell in cells.values()} == ({"done", "failed"} if retry is None else {"done"})
    assert ("1 failed before and stay so without retry=failed" in caplog.text) == (retry is None)


@pytest.mark.parametrize("state", ["resumable", "running", "asleep"])
def test_what_was_cut_off_goes_on(jobs, state):
    write(jobs[1].folder, state)
    engine = Engine()
    run_sweep(jobs[:2], engine, None)
    assert engine.ran == ["a", "b"]


def test_nothing_to_do_starts_no_engine(jobs):
    run_sweep(jobs, Engine(), None)
    assert all(cell.state == "done" for cell in run_sweep(jobs, None, None).values())


def test_an_interrupted_sweep_says_what_is_missing(jobs, caplog):
    def interrupted(works):
        yield from Engine()(works[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(jobs, interrupted, None)
    assert "1 of 4 cells are done" in caplog.text
    assert "3 not started, b first" in caplog.text


def test_unknown_retry_is_refused(jobs):
    with pytest.raises(UserError, match="retry=all: give failed"):
        run_sweep(jobs, Engine(), "all")


def test_the_plan_of_a_study_grows(jobs, tmp_path):
    write_plan(jobs[:2])
    write_plan(jobs[1:3])
    write(jobs[0].folder, "done")
    cells = read_study(tmp_path)
    assert [(cell.name, cell.state) for cell in cells] == [("a", "done"), ("b", "waiting"), ("c", "waiting")]
    assert (cells[2].config, cells[2].choices, cells[2].overrides) == ({"seed": 2}, {"model": "famseg_t"}, ["seed=2"])


def test_repetitions_are_one_cell(tmp_path):
    assert len(different([job(tmp_path / "a", seed=1), job(tmp_path / "a", seed=1)])) == 1


def test_cells_that_differ_in_places_only_are_refused(tmp_path):
    with pytest.raises(UserError, match="same cell, a"):
        different([job(tmp_path / "a", runs="x"), job(tmp_path / "a", runs="y")])


def test_two_data_sets_of_one_name_are_told_how_to_get_two(tmp_path):
    with pytest.raises(UserError, match=r"same cell, a: a data set is known by.*another name \(a link will do\)"):
        different([job(tmp_path / "a", data={"root": f"{site}/data"}) for site in ("siteA", "siteB")])


def test_the_summary_of_a_whole_study_is_one_line(jobs):
    cells = run_sweep(jobs, Engine(), None)
    assert summary(jobs, cells).endswith("4 of 4 cells are done.")
