import math

import numpy as np
import pytest

from famseg.data.splits import read_split, split_by_group, thin_out, write_split
from famseg.errors import UserError

NAMES = [f"{index:03d}" for index in range(60)]
GROUPS = [f"g{index // 3}" for index in range(60)]
GROUP_OF = dict(zip(NAMES, GROUPS, strict=True))


def test_every_sample_is_in_one_part_and_no_group_straddles():
    for fold in range(5):
        splits = split_by_group(NAMES, GROUPS, fold=fold)
        assert sorted(name for names in splits.values() for name in names) == NAMES
        parts = [{GROUP_OF[name] for name in names} for names in splits.values()]
        assert parts[0].isdisjoint(parts[1] | parts[2])
        assert parts[1].isdisjoint(parts[2])
        assert [len(names) for names in splits.values()] == [42, 6, 12]


def test_folds_test_everything_once():
    tested = [name for fold in range(5) for name in split_by_group(NAMES, GROUPS, fold=fold)["test"]]
    assert sorted(tested) == NAMES


def test_split_follows_from_its_seed():
    assert split_by_group(NAMES, GROUPS, seed=1) == split_by_group(NAMES, GROUPS, seed=1)
    assert split_by_group(NAMES, GROUPS, seed=1) != split_by_group(NAMES, GROUPS, seed=2)


def test_split_does_not_change_between_versions():
    """Published results name a seed: the same seed must give the same split for ever."""
    assert split_by_group(NAMES, GROUPS)["test"][::3] == ["000", "015", "033", "057"]


def test_fold_all_tests_everything():
    assert split_by_group(NAMES, GROUPS, fold="all") == {"train": [], "val": [], "test": NAMES}


def test_smallest_set_still_has_three_parts():
    splits = split_by_group(["a", "b", "c"], ["a", "b", "c"], folds=3)
    assert [len(names) for names in splits.values()] == [1, 1, 1]


def traits(seed=0):
    """Pixel sizes and object sizes: alike within a group, one in six unknown."""
    rng = np.random.default_rng(seed)
    spacing, size = rng.lognormal(-2, 0.5, 20), rng.uniform(0.05, 0.6, 20)
    return [(math.nan if i % 6 == 5 else spacing[i // 3], size[i // 3] + 0.001 * i) for i in range(60)]


def test_stratified_folds_test_everything_once_and_split_no_group():
    tested = []
    for fold in range(5):
        splits = split_by_group(NAMES, GROUPS, fold=fold, traits=traits())
        assert sorted(name for names in splits.values() for name in names) == NAMES
        parts = [{GROUP_OF[name] for name in names} for names in splits.values()]
        assert sum(map(len, parts)) == len(set(GROUPS))
        assert [len(names) for names in splits.values()] in ([42, 6, 12], [45, 3, 12])
        tested += splits["test"]
    assert sorted(tested) == NAMES


def test_stratified_folds_are_more_alike_than_those_of_chance():
    def spread(evenly):
        """Of the folds' mean object sizes, over many sets."""
        found = []
        for seed in range(10):
            sizes = [pair[1] for pair in traits(seed)]
            options = {"seed": seed, "traits": traits(seed) if evenly else None}
            folds = [split_by_group(NAMES, GROUPS, fold=fold, **options)["test"] for fold in range(5)]
            found.append(np.std([np.mean([sizes[int(name)] for name in fold]) for fold in folds]))
        return np.mean(found)

    assert spread(evenly=True) < 0.6 * spread(evenly=False)


def test_stratified_validation_is_never_empty():
    for fold in range(3):
        splits = split_by_group(list("abcd"), list("abcd"), folds=3, fold=fold, traits=[(1.0, i) for i in range(4)])
        assert all(splits.values())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fold": 5}, r"data.fold=5: there are folds 0 to 4 \(data.folds=5\), or `all`"),
        ({"fold": "first"}, "data.fold=first"),
        ({"folds": 30}, "60 images of 20 examinations or subjects are too few for data.folds=30"),
        ({"val_fraction": 0}, "data.val_fraction=0"),
        ({"folds": 1}, "data.folds=1: give at least 2"),
    ],
)
def test_impossible_options_are_named(options, says):
    with pytest.raises(UserError, match=says):
        split_by_group(NAMES, GROUPS, **options)


def test_a_part_is_never_empty():
    with pytest.raises(UserError, match=r"3 images of 3 .* are too few for data\.folds=2"):
        split_by_group(["a", "b", "c"], ["a", "b", "c"], folds=2)


def test_split_file_round_trip(tmp_path):
    splits = split_by_group(NAMES, GROUPS, fold=2, seed=3)
    write_split(tmp_path / "split.csv", splits, GROUP_OF)
    assert (tmp_path / "split.csv").read_text().splitlines()[0] == "file,group,split"
    assert read_split(tmp_path / "split.csv", GROUP_OF) == splits


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["000,g0,train", "001,g0,test"], r"000 \(train\) and 001 \(test\) are of the same .* 'g0'"),
        (["000,x,train", "003,x,test"], "same examination or subject 'x'"),
        (["999,g0,train"], "1 of 1 images are not in the data set, 999 first"),
        (["000,g0,train", "000,g0,train"], "000 is listed twice"),
        (["000,g0,training"], "000 has split 'training'"),
        ([], "lists no images"),
    ],
)
def test_bad_split_files_are_named(tmp_path, rows, says):
    (tmp_path / "split.csv").write_text("\n".join(["file,group,split", *rows]))
    with pytest.raises(UserError, match=rf"split\.csv: .*{says}"):
        read_split(tmp_path / "split.csv", GROUP_OF)


def test_missing_split_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv: cannot be read"):
        read_split(tmp_path / "gone.csv", GROUP_OF)


@pytest.mark.parametrize("images", [1, 12, 30, 59, 60, 100])
def test_thinned_splits_keep_shares_and_whole_groups(images):
    splits = split_by_group(NAMES, GROUPS)
    few = thin_out(splits, GROUP_OF, images)
    for split, names in few.items():
        share = len(splits[split]) * min(1.0, images / 60)
        assert len(names) == max(3, share // 3 * 3)  # groups of three
        assert names == [name for name in splits[split] if GROUP_OF[name] in {GROUP_OF[n] for n in names}]


def test_a_thinner_split_is_part_of_a_thicker_one():
    splits = split_by_group(NAMES, GROUPS)
    thin, thick = (thin_out(splits, GROUP_OF, images) for images in (20, 40))
    assert all(set(thin[split]) <= set(thick[split]) for split in splits)
    assert thin_out(thin, GROUP_OF, 60) == thin


def test_no_images_are_refused():
    with pytest.raises(UserError, match=r"data\.images=0: give at least 1"):
        thin_out(split_by_group(NAMES, GROUPS), GROUP_OF, 0)
