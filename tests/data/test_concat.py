import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from famseg.configuration import composed
from famseg.data.concat import Concat, datamodule
from famseg.data.folder import Folder
from famseg.data.phantom import Phantom
from famseg.errors import UserError
from famseg.value_types import require_types

FEMURS = {"femur": 1.0}


def both(toy, **options):
    return Concat({"heads": toy(4), "femurs": Phantom(6, (40, 60), planes=FEMURS)}, **options)


def test_classes_are_those_of_all_sets_with_the_papers_ids(toy):
    source = both(toy)
    assert source.classes == {"BG": 0, "FL": 1, "FB": 2}
    assert len(source) == 10
    assert (source.names[0], source.names[4]) == ("heads/000.png", "femurs/phantom_00000.png")
    assert (source.groups[3], source.groups[9]) == ("heads/g1", "femurs/subject_0002")


def test_samples_are_those_of_their_set(toy):
    source, phantom = both(toy), Phantom(6, (40, 60), planes=FEMURS)
    for index in range(6):
        np.testing.assert_array_equal(source[4 + index].image, phantom[index].image)
        np.testing.assert_array_equal(source[4 + index].mask, phantom[index].mask)
    assert np.unique(source[3].mask).tolist() == [0, 2]
    assert (source[3].name, source[3].group) == ("heads/003.png", "heads/g1")
    with pytest.raises(IndexError):
        source[10]


def test_ids_that_contradict_each_other_are_matched_by_name(toy):
    one, two = toy(2), toy(2)
    two.classes = {"BG": 2, "LV": 0}  # their masks hold 2 inside and 0 outside
    source = Concat({"one": one, "two": two})
    assert source.classes == {"BG": 0, "FB": 2, "LV": 3}
    assert np.unique(source[3].mask).tolist() == [0, 3]
    assert source[3].mask[20, 20] == 0


def test_every_image_knows_what_its_set_knows(toy, hc18_root, folder_root):
    sets = {
        "head": instantiate({"_target_": "famseg.data.hc18.HC18", "root": str(hc18_root)}),
        "own": Folder(folder_root, {"BG": 0, "FL": 1, "x": 2}, absent=["FB"]),
        "drawn": Phantom(4, (40, 60)),
    }
    data = datamodule(sets, size=(32, 48), batch_size=6, fold="all", mean=0.5, std=0.2)
    data.setup("test")
    known = torch.cat([batch["known"] for batch in data.test_dataloader()])
    assert list(data.classes) == ["BG", "FL", "FB", "x"]
    assert known.tolist() == [[True, True, True, False]] * 6 + [[True] * 4] * 10


def test_weights_are_those_of_the_sets(toy):
    options = {"size": (32, 48), "batch_size": 1, "folds": 3}
    data = datamodule({"a": toy(24), "b": toy(24)}, {"b": 3}, **options)
    data.setup("fit")
    names = [data.source.names[int(batch["index"])] for batch in data.train_dataloader()]
    once = [name for name in data.splits["train"] if name.startswith("a/")]
    thrice = [name for name in data.splits["train"] if name.startswith("b/")]
    assert sorted(names) == sorted(once + 3 * thrice)


def test_subjects_of_one_name_in_two_sets_are_named(toy):
    sets = {"a": toy(4), "b": toy(2)}
    (problem,) = Concat(sets).problems()
    assert "b, subject g0: is in a too, and is taken for another subject" in str(problem)
    one = Concat(sets, shared_subjects=True)
    assert not list(one.problems())
    assert one.groups == ["g0", "g0", "g1", "g1", "g0", "g0"]


def test_mistakes_are_named(toy):
    other = toy(2)
    other.classes = {"background": 0, "FB": 2}
    with pytest.raises(UserError, match=r"several names \(BG in a, background in b\)"):
        Concat({"a": toy(2), "b": other})
    with pytest.raises(UserError, match="names no data set"):
        Concat({})
    for weights in ({"b": 1.0}, {"a": 0.0}):
        with pytest.raises(UserError, match=r"data\.weights\.[ab]=.* sets of \['a'\]"):
            datamodule({"a": toy(6)}, weights)


def test_fetal_public_is_hc18_and_phantom_femurs(hc18_root):
    options = ["data=fetal_public", f"data.root={hc18_root}", "data.sets.phantom.n=6", "data.weights.hc18=2"]
    config = composed("data_check", options)
    require_types(config)
    data = instantiate(config.data)
    assert data.classes == {"BG": 0, "FL": 1, "FB": 2}
    assert [name.split("/")[0] for name in data.source.names] == ["hc18"] * 6 + ["phantom"] * 6
    assert data.size == (256, 384)


def test_sets_can_be_given_on_the_command_line(hc18_root, folder_root):
    own = f"{{_target_: famseg.data.folder.Folder, root: {folder_root}}}"
    data = instantiate(composed("data_check", ["data=concat", f"+data.sets.own={own}"]).data)
    assert data.source.names[0] == "own/0.png"
