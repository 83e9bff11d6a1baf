import multiprocessing
import os
import pickle
import time

import cv2
import numpy as np
import pytest
from toy_source import Toy

from famseg.data.hc18 import HC18
from famseg.data.items import Preparation
from famseg.data.source import Stamp
from famseg.data.store import shared_store
from famseg.data.transforms import Letterbox
from famseg.errors import UserError


def preparation(source, size=(32, 48), classes=None):
    return Preparation(source, Letterbox(size), classes or source.classes, 0.5, 0.25)


def kept(source, folder, **options):
    prepare = preparation(source, **options)
    prepare.keep_on_disk(folder, range(len(source)))
    return prepare


def same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_samples_from_disk_are_those_decoded(toy, tmp_path):
    prepare, fresh = kept(toy(6), tmp_path), preparation(toy(6))
    prepare.source = None
    for index in range(6):
        same(prepare.get(index), fresh.get(index))
        assert prepare.get(index).image.flags.writeable  # as torch.from_numpy wants it


def test_mean_and_std_from_disk_are_those_of_the_pictures(toy, tmp_path):
    measured = []
    for folder in (tmp_path, None):
        prepare = Preparation(toy(6), Letterbox((32, 48)), toy(6).classes)
        if folder:
            prepare.keep_on_disk(folder, range(6))
        prepare.measure(range(4), "test")
        measured.append((prepare.mean, prepare.std))
    assert measured[0] == measured[1]


def test_a_second_run_decodes_nothing(toy, tmp_path):
    kept(toy(6), tmp_path)

    class Blind(Toy):
        def __getitem__(self, index):
            raise AssertionError("decoded again")

    same(kept(Blind(6), tmp_path).get(5), preparation(toy(6)).get(5))


@pytest.mark.parametrize("options", [{"size": (32, 64)}, {"classes": {"BG": 0, "FL": 1, "FB": 2}}])
def test_other_options_have_another_file(toy, tmp_path, options):
    kept(toy(6), tmp_path)
    prepare = kept(toy(6), tmp_path, **options)
    same(prepare.get(1), preparation(toy(6), **options).get(1))
    assert len(list(tmp_path.glob("*.samples"))) == 2


def test_a_changed_source_file_makes_the_cache_anew(hc18_root, tmp_path):
    before = kept(HC18(hc18_root), tmp_path)
    (old,) = tmp_path.glob("*.samples")
    path = hc18_root / "training_set" / "000_HC.png"
    changed = 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    status = path.stat()
    cv2.imwrite(str(path), changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = kept(HC18(hc18_root), tmp_path)
    same(after.get(0), preparation(HC18(hc18_root)).get(0))
    assert not np.array_equal(after.get(0).image, before.get(0).image)  # who has the old file open still reads it
    (new,) = tmp_path.glob("*.samples")
    assert new != old


def test_two_folders_with_the_same_names_keep_a_file_each(hc18_root, tmp_path):
    copy = hc18_root.rename(hc18_root.with_name("other"))
    kept(HC18(copy), tmp_path / "cache")
    copy.rename(hc18_root)
    kept(HC18(hc18_root), tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.samples"))) == 2


class Slow(Toy):
    """Leaves a file for every decoding."""

    def __init__(self, folder):
        super().__init__(6)
        self.folder = folder

    def __getitem__(self, index):
        (self.folder / f"{index}-{os.getpid()}").touch()
        time.sleep(0.02)
        return super().__getitem__(index)


def _start(folder, barrier, queue):
    barrier.wait()
    prepare = kept(Slow(folder / "decoded"), folder / "cache")
    queue.put(int(prepare.get(3).image.sum()))


def test_processes_that_start_at_once_decode_once(tmp_path):
    (tmp_path / "decoded").mkdir()
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_start, args=(tmp_path, barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    sums = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert sums == {int(preparation(Toy(6)).get(3).image.sum())}
    assert sorted(file.name[0] for file in (tmp_path / "decoded").iterdir()) == list("012345")


def test_a_writer_that_dies_leaves_nothing_that_is_read(toy, tmp_path):
    def die(index):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_store(tmp_path, Stamp({"kind": "toy", "count": 6}), (32, 48), ["BG", "FB"], 6, die)
    assert [file.suffix for file in tmp_path.iterdir()] in ([], [".lock"])
    same(kept(toy(6), tmp_path).get(2), preparation(toy(6)).get(2))


class OneBad(Toy):
    def __getitem__(self, index):
        if index == 4:
            raise UserError("004.png: has no label. Add one.")
        return super().__getitem__(index)


def test_a_bad_image_is_told_when_it_is_used(tmp_path):
    prepare = preparation(OneBad(6))
    prepare.keep_on_disk(tmp_path, [0, 1, 5])
    same(prepare.get(5), preparation(Toy(6)).get(5))
    with pytest.raises(UserError, match=r"004\.png"):
        prepare.get(4)
    with pytest.raises(UserError, match=r"004\.png"):
        prepare.keep_on_disk(tmp_path, [3, 4])


def test_the_store_travels_to_workers_that_are_not_forked(toy, tmp_path):
    prepare = kept(toy(6), tmp_path)
    same(pickle.loads(pickle.dumps(prepare)).get(2), prepare.get(2))


def test_a_folder_that_cannot_be_written_is_named(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*data\.cache_dir=DIR or data\.cache=ram"):
        kept(toy(6), tmp_path / "file" / "cache")


def test_sources_stamp_what_their_samples_follow_from(hc18_root, folder_root):
    from famseg.data.concat import Concat
    from famseg.data.folder import Folder
    from famseg.data.phantom import Phantom

    made = [
        HC18(hc18_root),
        Folder(folder_root),
        Folder(folder_root, ids={"BG": 0, "FB": 2}),
        Phantom(4),
        Phantom(4, seed=1),
        Concat({"a": Phantom(4), "b": HC18(hc18_root)}),
    ]
    again = [HC18(hc18_root), Folder(folder_root), Phantom(4)]
    stamps = [source.stamp() for source in made]
    assert [source.stamp() for source in again] == [stamps[0], stamps[1], stamps[3]]
    assert all(one != other for i, one in enumerate(stamps) for other in stamps[:i])
    assert len(stamps[0].files) == 1 + 2 * len(made[0])
    assert len(stamps[5].files) == len(stamps[0].files)
