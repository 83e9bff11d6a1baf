"""A study's folder is read whatever lies in it."""

import json

import pytest
import yaml

from famseg import locks
from famseg.configuration import composed
from famseg.errors import UserError
from famseg.study.cells import read_study
from famseg.study.identity import identity, setting

CONFIG = {"seed": 0, "model": {"depths": [1, 2]}, "study": "s", "output": "runs/s/a", "data": {"seed": 0}}


@pytest.fixture
def study(tmp_path):
    """Write a cell's files; text is written as it is."""

    def write(name, status=None, config=CONFIG, choices=None, overrides=(), revision="abc"):
        cell = tmp_path / name
        hydra = {"hydra": {"runtime": {"choices": choices or {}}}}
        files = {
            ".hydra/hydra.yaml": yaml.dump(hydra),
            ".hydra/overrides.yaml": yaml.dump(list(overrides)),
            "config.yaml": config if isinstance(config, str) else yaml.dump(config),
            "environment.json": json.dumps({"revision": revision}),
            "status.json": status if isinstance(status, str) or status is None else json.dumps(status),
        }
        for path, text in files.items():
            if text is not None:
                (cell / path).parent.mkdir(parents=True, exist_ok=True)
                (cell / path).write_text(text)
        return cell

    return write


def test_what_a_cell_knows(study, tmp_path):
    study("a", {"state": "done"}, choices={"model": "famseg_t", "experiment": None}, overrides=["seed=0"])
    (cell,) = read_study(tmp_path)
    assert (cell.name, cell.state, cell.problem) == ("a", "done", "")
    assert (cell.choices, cell.overrides) == ({"model": "famseg_t"}, ["seed=0"])
    assert (cell.config, cell.environment) == (CONFIG, {"revision": "abc"})


@pytest.mark.parametrize(
    ("status", "state", "problem"),
    [
        ({"state": "done"}, "done", ""),
        ({"state": "resumable"}, "resumable", ""),
        ({"state": "running"}, "lost", "its process is gone"),
        ({"state": "failed", "error": "Traceback\n  File\nValueError: no\n"}, "failed", "ValueError: no"),
        (
            {"state": "failed", "error": "File\nhydra.errors.CompactHydraException: a: no such."},
            "failed",
            "a: no such.",
        ),
        ({"state": "failed", "error": None}, "failed", "no reason in status.json"),
        ('{"state": "do', "unreadable", "status.json: JSONDecodeError"),
        ("[]", "unreadable", "status.json: not a dict"),
        ({"state": "asleep"}, "unreadable", "status.json: its state is 'asleep'"),
        (None, "unreadable", "no status.json"),
    ],
)
def test_states(study, tmp_path, status, state, problem):
    study("a", status)
    (cell,) = read_study(tmp_path)
    assert (cell.state, cell.problem) == (state, problem)


def test_a_living_process_is_running(study, tmp_path):
    with locks.locked(study("a", {"state": "running"}), "run"):
        assert read_study(tmp_path)[0].state == "running"


def test_half_written_and_foreign_files(study, tmp_path):
    study("a", {"state": "done"}, config="seed: [1\n")
    study("b", {"state": "done"}, config="just words")
    (study("c", {"state": "done"}) / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: 3}")
    (study("d", {"state": "done"}) / "environment.json").write_bytes(b"\xff\xfe")
    (tmp_path / "report").mkdir()
    (tmp_path / "multirun.yaml").write_text("x: 1")
    (tmp_path / "notes").mkdir()
    cells = {cell.name: cell for cell in read_study(tmp_path)}
    assert list(cells) == ["a", "b", "c", "d"]
    assert (cells["a"].config, cells["a"].problem, cells["a"].identity) == ({}, "config.yaml: ParserError", "")
    assert cells["b"].problem == "config.yaml: not a dict"
    assert cells["c"].choices == {}
    assert cells["d"].problem == "environment.json: UnicodeDecodeError"


def test_planned_cells_are_waiting(study, tmp_path):
    study("a", {"state": "done"})
    plan = {"a": {}, "b": {"overrides": ["seed=1"], "choices": {"model": "unet"}, "config": {"seed": 1}}, "c": 3}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert [(cell.name, cell.state) for cell in read_study(tmp_path)] == [("a", "done"), ("b", "waiting")]
    assert read_study(tmp_path)[1].config == {"seed": 1}


def test_an_empty_study_has_no_cells_and_a_missing_one_is_named(tmp_path):
    assert read_study(tmp_path) == []
    with pytest.raises(UserError, match="no such folder"):
        read_study(tmp_path / "none")


def resolved(*overrides, output="runs/x"):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(composed("train", [*overrides, f"output={output}"]), resolve=True)


@pytest.mark.parametrize(
    "overrides",
    [
        ["study=other"],
        ["runs=elsewhere"],
        ["logger=none"],
        ["resume=true"],
        ["data.num_workers=3"],
        ["trainer.progress=false"],
        ["trainer.save_every_s=60"],
        ["~trainer.save_every_s"],  # as in runs of earlier versions
        ["~callbacks.compilation"],  # as in runs of earlier versions
    ],
)
def test_an_identity_knows_no_places(overrides):
    assert identity(resolved(*overrides, output="/elsewhere")) == identity(resolved())


@pytest.mark.parametrize("override", ["seed=1", "model=famseg_n", "optimizer=sgd", "trainer.max_epochs=3", "data.n=9"])
def test_an_identity_knows_the_experiment(override):
    assert identity(resolved(override)) != identity(resolved())


def test_a_data_set_may_move():
    here, moved, other = (identity(resolved("data=hc18", f"data.root={root}")) for root in ("a/hc18", "/b/hc18", "a/x"))
    assert here == moved != other


def test_one_of_several_data_sets_may_move():
    here, moved, other = (identity(resolved("data=fetal_public", f"data.root={r}")) for r in ("a/x", "/b/x", "a/y"))
    assert here == moved != other


def test_a_setting_is_the_same_for_all_seeds_and_folds():
    assert setting(resolved("seed=1")) == setting(resolved("seed=2"))
    assert setting(resolved("data.fold=1")) == setting(resolved("data.fold=2"))
    assert setting(resolved("data.fold=1")) != setting(resolved("data.fold=1", "data.folds=4"))
    assert setting(resolved("seed=1")) != setting(resolved("seed=1", "data.split_seed=1"))
