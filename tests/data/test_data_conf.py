from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from famseg.configuration import composed
from famseg.data.transforms import Augmentation
from famseg.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


def data(name, root, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+data={name}", f"data.root={root}", "+seed=3", "data.folds=3", *overrides])
    return instantiate(config.data, _convert_="all")


@pytest.mark.parametrize(("name", "classes"), [("hc18", ["BG", "FB"]), ("folder", ["BG", "FL", "FB"])])
def test_options_make_a_datamodule(name, classes, request):
    made = data(name, request.getfixturevalue(f"{name}_root"))
    assert list(made.classes) == classes
    assert made.augment == Augmentation()
    assert (made.size, made.seed) == ((256, 384), 3)


def test_keys_are_flat_and_can_be_overridden(folder_root):
    options = ("data.fold=all", "data.size=[64,96]", "data.augment=null", "data.ids={BG:0,FB:2}", "data.cache=none")
    made = data("folder", folder_root, *options)
    assert len(made.splits["test"]) == 6
    assert (made.size, made.augment, made.classes) == ((64, 96), None, {"BG": 0, "FB": 2})


def test_a_path_with_an_umlaut_is_told_of_its_quotes():
    with pytest.raises(UserError) as raised:
        composed("data_check", ["data=folder", "data.root=Müller"])
    assert str(raised.value).endswith("Quote the value for Hydra, and all for the shell: \"data.root='Müller'\".")
    assert composed("data_check", ["data=folder", "data.root='Müller'"]).data.root == "Müller"
    with pytest.raises(UserError, match="BG: 0"):
        composed("data_check", ["data=folder", "data.ids={BG: 0"])
