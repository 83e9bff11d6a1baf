import math
import os

import cv2
import numpy as np
import pytest

from famseg.data import images
from famseg.errors import UserError
from famseg.prediction.scans import find_files, read_scan

GREY = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)


def unknown(path):
    return math.nan


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_lossless_pictures_are_read_as_they_are(write_image, suffix):
    scan = read_scan(write_image(f"a{suffix}", GREY), unknown)
    np.testing.assert_array_equal(scan.image, GREY)
    assert math.isnan(scan.spacing)
    assert scan.notes == ()


def test_files_folders_and_globs(write_image, tmp_path):
    for name in ("a/1.png", "a/deep/2.JPG", "b/3.tif", "b/4.png", "a/.hidden.png"):
        write_image(name.replace("JPG", "jpg"), GREY)
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "scan").write_bytes(b"\0" * 128 + b"DICM")
    found = find_files([str(tmp_path / "b" / "4.png"), str(tmp_path / "a"), str(tmp_path / "b" / "*.*")])
    assert [path.name for path in found] == ["4.png", "1.png", "2.jpg", "scan", "3.tif"]


def test_earlier_results_are_no_input(write_image, tmp_path):
    write_image("1.png", GREY)
    write_image("out/masks/1.png", GREY)
    assert find_files([str(tmp_path)], but_not_in=tmp_path / "out") == [tmp_path / "1.png"]


def test_results_of_another_prediction_are_no_input(write_image, tmp_path):
    """A contour with calipers was segmented, and had a head circumference in the next table."""
    for name in ("1.png", "january/masks/1.png", "january/overlays/1.png", "own/masks/2.png"):
        write_image(name, GREY)
    (tmp_path / "january/biometry.csv").touch()
    wanted = [tmp_path / "1.png", tmp_path / "own/masks/2.png"]
    assert find_files([str(tmp_path)]) == find_files([str(tmp_path / "**/*.png")]) == wanted
    assert find_files([str(tmp_path / "january/masks/1.png")]) == [tmp_path / "january/masks/1.png"]
    with pytest.raises(UserError, match=r"holds no picture\. .* results do not count"):
        find_files([str(tmp_path)], but_not_in=tmp_path)


def test_a_missing_file_is_kept_for_the_report_and_an_empty_folder_is_a_mistake(tmp_path):
    assert find_files([str(tmp_path / "gone.png")]) == [tmp_path / "gone.png"]
    for name in ("", "*.png"):
        with pytest.raises(UserError, match="holds no picture"):
            find_files([str(tmp_path / name)])


def test_pages_of_a_tiff_are_not_guessed_at(tmp_path):
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), [GREY, GREY])
    with pytest.raises(UserError, match=r"a\.tif: holds 2 pictures"):
        read_scan(tmp_path / "a.tif", unknown)


def test_size_is_read_before_anything_is_decoded(write_image, monkeypatch):
    path = write_image("huge.png", np.zeros((10_000, 10_000), np.uint8))
    monkeypatch.setattr(images, "_decode", lambda path: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"huge\.png: 10000x10000 px is too large"):
        read_scan(path, unknown)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(write_image):
    path = write_image("a.png", GREY)
    path.chmod(0)
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        read_scan(path, unknown)
