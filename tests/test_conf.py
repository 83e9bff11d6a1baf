"""Every option and every recipe composes, and what it names exists with the arguments it gives."""

import hydra
import pytest
from omegaconf import OmegaConf

from famseg.configuration import composed, folder
from famseg.errors import UserError

GROUPS = ("model", "loss", "optimizer", "scheduler", "switch", "trainer", "data", "logger", "callbacks")
OPTIONS = [
    (group, path.stem)
    for group in GROUPS
    for path in sorted((folder() / group).glob("*.yaml"))
    if path.stem not in ("default", "from_run") or group == "callbacks"
]
RECIPES = sorted(path.stem for path in (folder() / "experiment").glob("*.yaml"))
FIXED = ["output=out", "data.num_workers=0"]


def test_the_groups_are_all_of_them():
    groups = {path.name for path in folder().iterdir() if path.is_dir()}
    assert groups == {*GROUPS, "task", "experiment", "scale", "hydra"}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_and_is_instantiated(group, option, tmp_path):
    needs = ["data.root=none"] if option in ("hc18", "folder", "femur", "fetal_public") else []
    config = composed("train", [f"{group}={option}", *FIXED, *needs, f"output={tmp_path}"])
    resolved = OmegaConf.to_container(config, resolve=True)
    assert group in resolved
    if group in ("loss", "optimizer", "scheduler", "switch", "callbacks") or option in ("famseg_n", "famseg_t", "cpu"):
        assert hydra.utils.instantiate(config[group], _convert_="all") is not None


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_composes(recipe, tmp_path):
    config = composed("train", [f"experiment={recipe}", *FIXED, f"output={tmp_path}"])
    if "root" in config.data:
        config.data.root = "none"
    assert OmegaConf.to_container(config, resolve=True)["study"]


def test_the_default_is_the_papers_recipe():
    config = composed("train", FIXED)
    assert (config.trainer.max_epochs, config.optimizer.name, config.switch.optimizer.name) == (200, "adamw", "sgd")
    assert hydra.utils.instantiate(config.switch).epoch(200) == 150
    assert "adadelta" in config.scheduler._target_


@pytest.mark.parametrize("name", ["optimizer=lion", "model=famseg_xl", "data.colour=red", "nonsense=1"])
def test_wrong_names_are_named(name):
    with pytest.raises(UserError, match=name.partition("=")[0].split(".")[0]):
        composed("train", [name])
