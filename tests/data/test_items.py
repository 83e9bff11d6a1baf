import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from famseg.data.items import EvaluationItems, Preparation, TrainItems, ValItems, collate
from famseg.data.transforms import Augmentation, Letterbox
from famseg.errors import UserError


@pytest.fixture
def prepare(toy):
    return Preparation(toy(6), Letterbox((32, 48)), {"BG": 0, "FB": 2}, mean=0.5, std=0.25)


def jitter(image, mask, seed):
    return image ^ np.uint8(seed % 256), mask


def test_mean_and_std_are_those_of_the_pictures_without_their_padding(toy):
    source = toy(6)
    prepare = Preparation(source, Letterbox((64, 60)), {"BG": 0, "FB": 2})  # width fits: pictures are not resized
    prepare.measure(range(6), "test")
    pixels = np.concatenate([source[index].image.ravel() for index in range(6)]) / 255
    assert prepare.mean == pytest.approx(pixels.mean(), abs=1e-12)
    assert prepare.std == pytest.approx(pixels.std(), abs=1e-12)


def test_known_mean_and_std_are_not_measured_again(prepare):
    prepare.measure(range(6), "test")
    assert (prepare.mean, prepare.std) == (0.5, 0.25)


def test_kept_pairs_are_those_decoded_again_and_decoded_once(toy, prepare):
    fresh = prepare.get(3)
    prepare.keep(range(6), "test")
    prepare.source = None
    for kept, again in zip(prepare.get(3), fresh, strict=True):
        np.testing.assert_array_equal(kept, again)


def test_tensors_are_normalised(prepare):
    item = prepare.tensors(4, np.full((32, 48), 255, np.uint8), np.ones((32, 48), np.uint8), np.ones(2, bool))
    assert (item["image"].shape, item["image"].dtype) == ((1, 32, 48), torch.float32)
    assert item["image"].unique().item() == pytest.approx(2.0)
    assert (item["mask"].dtype, item["index"]) == (torch.int64, 4)


def test_masks_are_positions_among_the_models_classes(toy):
    three = Preparation(toy(6), Letterbox((32, 48)), {"BG": 0, "FL": 1, "FB": 2}, 0.5, 0.25)
    two = Preparation(toy(6), Letterbox((32, 48)), {"BG": 0, "FB": 2}, 0.5, 0.25)
    assert np.unique(three.get(0).mask).tolist() == [0, 2]
    assert np.unique(two.get(0).mask).tolist() == [0, 1]


def test_a_class_that_the_model_does_not_know_is_refused(toy):
    with pytest.raises(UserError, match="labels FB, which the model does not know"):
        Preparation(toy(6), Letterbox((32, 48)), {"BG": 0, "FL": 1})


def test_what_an_image_knows_travels_with_it(toy):
    source = toy(2)
    wide = Preparation(source, Letterbox((32, 48)), {"BG": 0, "FL": 1, "FB": 2}, 0.5, 0.25)
    assert wide.get(0).known.tolist() == [True] * 3  # the toy says nothing: all is known
    head = replace(source[0], known=frozenset({"FB"}))
    assert wide.known(head).tolist() == [True, False, True]


def test_an_id_of_no_class_is_named(toy):
    source = toy(6)
    source.classes = {"BG": 0, "FB": 3}
    with pytest.raises(UserError, match=r"002\.png: label ids \[2\] belong to no class"):
        Preparation(source, Letterbox((32, 48)), source.classes).get(2)


def test_augmentation_follows_from_seed_epoch_and_index(prepare):
    def image(seed, epoch, index):
        return TrainItems(prepare, jitter, seed)[epoch, index, 0]["image"]

    assert torch.equal(image(0, 1, 2), image(0, 1, 2))
    for other in [(1, 1, 2), (0, 2, 2), (0, 1, 3)]:
        assert not torch.equal(image(0, 1, 2), image(*other))
    assert not torch.equal(image(0, 1, 2), TrainItems(prepare, jitter, 0)[1, 2, 1]["image"])  # a second copy


def test_items_travel_to_workers_that_are_not_forked(prepare):
    items = TrainItems(prepare, Augmentation(), 0)
    there = pickle.loads(pickle.dumps(items))
    assert torch.equal(there[1, 2, 0]["image"], items[1, 2, 0]["image"])
    pickle.dumps(items)  # also after its first use


def test_without_augmentation_training_items_are_validation_items(prepare):
    train, val = TrainItems(prepare, None, 0)[5, 2, 0], ValItems(prepare)[2]
    assert torch.equal(train["image"], val["image"])
    assert torch.equal(train["mask"], val["mask"])


def test_evaluation_items_carry_the_original(prepare):
    item = EvaluationItems(prepare)[1]
    assert (item["name"], item["spacing"], item["size"]) == ("001.png", 0.5, (41, 60))
    assert item["truth"] == {"hc_mm": 50.0}
    np.testing.assert_array_equal(item["original_mask"], prepare.source[1].mask)
    assert item["original_mask"].shape == (41, 60)


def test_collate_stacks_what_is_alike_and_lists_the_rest(prepare):
    items = EvaluationItems(prepare)
    batch = collate([items[0], items[1]])
    assert batch["image"].shape == (2, 1, 32, 48)
    assert batch["index"].tolist() == [0, 1]
    assert [mask.shape for mask in batch["original_mask"]] == [(40, 60), (41, 60)]
    assert batch["size"] == [(40, 60), (41, 60)]
