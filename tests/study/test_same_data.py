"""A moved data set is the same, another set of the same name is not."""

import json
import logging
import subprocess
import sys

import pytest
import yaml

from famseg.errors import UserError
from famseg.study import same_data
from famseg.study.cells import read_cell
from famseg.study.same_data import require_same_data, roots

NAMES = ("a.png", "b.png")


def data_set(folder, names=NAMES):
    (folder / "images").mkdir(parents=True)
    for name in names:
        (folder / "images" / name).touch()
    return folder


@pytest.fixture
def cell(tmp_path):
    """A cell that was run on a set."""
    same_data._files.cache_clear()
    same_data._say_moved.cache_clear()

    def write(data, state="done", files=NAMES, directory="/"):
        folder = tmp_path / "study" / "cell"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.dump({"data": data}))
        (folder / "environment.json").write_text(json.dumps({"directory": str(directory)}))
        (folder / "status.json").write_text(json.dumps({"state": state}))
        (folder / "split.csv").write_text("\n".join(["file,group,split", *(f"{name},0,train" for name in files)]))
        return read_cell(folder)

    return write


def data(root):
    return {"root": str(root)}


def test_another_set_of_the_same_name_is_refused(tmp_path, cell):
    a, b = (data_set(tmp_path / site / "data") for site in ("siteA", "siteB"))
    with pytest.raises(UserError, match=r"data.root=.*siteA.*cell was run on another.*siteB.*study=OTHER"):
        require_same_data(cell(data(b)), {"data": data(a)})


@pytest.mark.parametrize("state", ["failed", "resumable"])
def test_what_was_begun_on_another_set_does_not_go_on(tmp_path, cell, state):
    a, b = (data_set(tmp_path / site / "data") for site in ("siteA", "siteB"))
    with pytest.raises(UserError):
        require_same_data(cell(data(b), state), {"data": data(a)})


def test_a_moved_set_is_the_same_and_that_is_said_once(tmp_path, cell, caplog):
    caplog.set_level(logging.WARNING)
    now, run = data_set(tmp_path / "new" / "data", [*NAMES, "c.png"]), cell(data(tmp_path / "old" / "data"))
    require_same_data(run, {"data": data(now)})
    require_same_data(run, {"data": data(now)})
    assert caplog.text.count("taken for the same data set, moved") == 1


def test_a_set_without_the_images_of_the_old_one_has_not_moved(tmp_path, cell):
    now = data_set(tmp_path / "new" / "data", ["a.png", "c.png"])
    with pytest.raises(UserError):
        require_same_data(cell(data(tmp_path / "old" / "data")), {"data": data(now)})


def test_links_and_ways_of_writing_make_no_other_set(tmp_path, cell, caplog):
    there = data_set(tmp_path / "a" / "data")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    run = cell(data("a/data"), directory=tmp_path)
    for root in (there, tmp_path / "b" / "data", tmp_path / "a" / ".." / "b" / "data"):
        require_same_data(run, {"data": data(root)})
    assert not caplog.text


def test_a_folder_that_is_not_here_is_no_other_set(tmp_path, cell, caplog):
    """What is done stays done; what is still to run says what is missing."""
    require_same_data(cell(data(data_set(tmp_path / "a" / "data"))), {"data": data(tmp_path / "typo" / "data")})
    assert not caplog.text


def test_a_relative_root_is_that_of_its_directory(tmp_path, cell, monkeypatch):
    for site in ("siteA", "siteB"):
        data_set(tmp_path / site / "data")
    run = cell(data("data"), directory=tmp_path / "siteB")
    monkeypatch.chdir(tmp_path / "siteB")
    require_same_data(run, {"data": data("data")})
    monkeypatch.chdir(tmp_path / "siteA")
    with pytest.raises(UserError):
        require_same_data(run, {"data": data("data")})


def test_a_set_among_several(tmp_path, cell):
    a, b = (data_set(tmp_path / site / "data") for site in ("siteA", "siteB"))
    gone = tmp_path / "gone"
    files = [*(f"heads/{name}" for name in NAMES), "phantom/0.png"]
    run = cell({"root": str(gone), "sets": {"heads": data(gone), "phantom": {"n": 1}}}, files=files)
    assert roots(run.config) == {"data.sets.heads.root": str(gone)}
    require_same_data(run, {"data": {"sets": {"heads": data(a), "phantom": {"n": 1}}}})
    data_set(gone)
    with pytest.raises(UserError, match=r"data\.sets\.heads\.root="):
        require_same_data(run, {"data": {"sets": {"heads": data(b)}}})


def test_a_typing_mistake_that_never_trained_blocks_nothing(tmp_path, cell):
    now = data_set(tmp_path / "data")
    run = cell(data(tmp_path / "dta" / "data"), "failed", files=())
    require_same_data(run, {"data": data(now)})


@pytest.mark.slow
def test_the_command_refuses_another_site_and_its_mend_works(repository, tmp_path):
    """The cells fail for want of labels, and are called done then."""
    a, b = (data_set(tmp_path / site / "data") for site in ("siteA", "siteB"))
    sweep(repository, tmp_path, b)
    (done,) = (path.parent for path in (tmp_path / "sites").glob("*/config.yaml"))
    (done / "status.json").write_text('{"state": "done"}')
    assert sweep(repository, tmp_path, b).returncode == 0
    refused = sweep(repository, tmp_path, a)
    assert refused.returncode == 1
    assert f"was run on another data set whose folder has this name, {b}" in refused.stderr
    assert "Traceback" not in refused.stderr
    (tmp_path / "a_data").symlink_to(a)
    sweep(repository, tmp_path, tmp_path / "a_data")
    assert len(list((tmp_path / "sites").glob("*/status.json"))) == 2


def sweep(repository, tmp_path, root):
    command = [sys.executable, "train.py", "-m", "study=sites", f"runs={tmp_path}", "data=folder", f"data.root={root}"]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=200)
