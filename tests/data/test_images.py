import cv2
import numpy as np
import pytest

from famseg.data.images import read_image, read_label
from famseg.errors import UserError

IDS = {"BG": 0, "FL": 1, "FB": 2}
COLOURS = {"BG": (0, 0, 0), "FL": (255, 0, 0), "FB": (0, 255, 0)}
GREY = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)


def write(path, pixels):
    assert cv2.imwrite(str(path), pixels)
    return path


def test_grey_image_is_read_as_it_is(tmp_path):
    image, converted = read_image(write(tmp_path / "a.png", GREY))
    np.testing.assert_array_equal(image, GREY)
    assert converted == ""


def test_grey_written_as_colour_keeps_its_values(tmp_path):
    image, converted = read_image(write(tmp_path / "a.png", np.dstack([GREY] * 3)))
    np.testing.assert_array_equal(image, GREY)
    assert "colour" in converted


def test_alpha_is_dropped(tmp_path):
    image, _ = read_image(write(tmp_path / "a.png", np.dstack([GREY] * 3 + [GREY // 2])))
    np.testing.assert_array_equal(image, GREY)


@pytest.mark.parametrize("pixels", [GREY.astype(np.uint16) * 200, GREY.astype(np.float32) / 255])
def test_deep_images_become_8_bits_and_say_so(tmp_path, pixels):
    image, converted = read_image(write(tmp_path / "a.tif", pixels))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.rint(GREY * (255.0 / GREY.max())).astype(np.uint8))
    assert str(pixels.dtype) in converted


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float64])
def test_deep_colours_of_any_type_become_grey(tmp_path, kind):
    blue, green, red = GREY, GREY // 2, GREY // 4
    image, converted = read_image(write(tmp_path / "a.tif", np.dstack([blue, green, red]).astype(kind)))
    grey = 0.114 * blue + 0.587 * green + 0.299 * red
    np.testing.assert_allclose(image, grey * (255 / grey.max()), atol=1)
    assert "colour image converted to grey" in converted


def test_not_a_number_is_refused(tmp_path):
    pixels = np.full((40, 40), np.nan, np.float32)
    with pytest.raises(UserError, match=r"a\.tif: holds values that are not numbers"):
        read_image(write(tmp_path / "a.tif", pixels))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_truncated_files_are_named(tmp_path, suffix, part):
    path = write(tmp_path / f"scan{suffix}", GREY)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError, match=rf"scan\{suffix}: is no readable image"):
        read_image(path)


def test_a_file_of_several_pictures_is_refused(tmp_path):
    """OpenCV takes the first without a word: a training would learn from one frame of a loop and its label."""
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), [GREY, GREY])
    with pytest.raises(UserError, match=r"a\.tif: holds 2 pictures\. Export the one that is meant"):
        read_image(tmp_path / "a.tif")


def test_missing_and_small_images_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: cannot be read"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(UserError, match="48x31 px is too small"):
        read_image(write(tmp_path / "a.png", GREY[:31]))


def test_labels_of_ids_and_of_colours_agree(tmp_path):
    ids = np.random.default_rng(1).integers(0, 3, (40, 48), dtype=np.uint8)
    rgb = np.array(list(COLOURS.values()), np.uint8)[ids]
    for name, pixels in {"ids": ids, "rgb": rgb[..., ::-1], "grey_rgb": np.dstack([ids] * 3)}.items():
        np.testing.assert_array_equal(read_label(write(tmp_path / f"{name}.png", pixels), IDS, COLOURS), ids)


def test_unknown_ids_and_colours_are_named(tmp_path):
    label = np.zeros((40, 48), np.uint8)
    label[3, 4] = 7
    with pytest.raises(UserError, match=r"ids \[7\] belong to no class. Known ids: 0 BG, 1 FL, 2 FB"):
        read_label(write(tmp_path / "a.png", label), IDS, COLOURS)
    label[:] = np.arange(48)
    with pytest.raises(UserError, match=r"ids 3 to 47 \(45 of them\) belong"):
        read_label(write(tmp_path / "a.png", label), IDS, COLOURS)
    rgb = np.zeros((40, 48, 3), np.uint8)
    rgb[3, 4] = (9, 8, 7)  # blue, green, red
    with pytest.raises(UserError, match=r"colour \(7, 8, 9\) .* at x=4, y=3 belongs to no class.*'data\.colours="):
        read_label(write(tmp_path / "b.png", rgb), IDS, COLOURS)


def test_a_smoothed_label_is_told_from_one_with_an_id_too_many(tmp_path):
    """Naming ids mends the second alone."""
    smoothed = write(tmp_path / "a.png", cv2.blur(np.diag(np.full(40, 255, np.uint8)), (9, 9)))
    with pytest.raises(UserError, match=r"Borders are smoothed, or were a JPEG: export it as a PNG of whole ids"):
        read_label(smoothed, {"BG": 0, "FB": 255}, {})
