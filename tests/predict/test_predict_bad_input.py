"""Each bad file has a clear outcome, and the good one beside it is not lost."""

import csv
import math

import cv2
import numpy as np
import pytest

from famseg.prediction.predict import Job, predict

SMALL = np.full((40, 48), 90, np.uint8)


@pytest.fixture
def outcome(predictor, write_image, picture, tmp_path):
    """Predict on files together with a good one; their lines of the table."""

    def outcome(*files):
        good = write_image("good.png", picture)
        job = Job([predictor], tmp_path / "out", lambda path: 0.25)
        results = predict([*files, good], job, batch=2)
        assert results[-1].error == ""
        assert (job.out / "masks" / "good.png").exists()
        with (job.out / "biometry.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert float(rows[-1]["hc_mm"]) > 0
        return rows[:-1]

    return outcome


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.95])
def test_empty_and_truncated_files(outcome, write_image, picture, suffix, part):
    path = write_image(f"bad{suffix}", picture)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    (row,) = outcome(path)
    assert f"bad{suffix}: is no readable image" in row["error"]
    assert row["mask"] == ""


def test_text_named_png(outcome, tmp_path):
    (tmp_path / "bad.png").write_text("this is no image\n" * 50)
    assert "bad.png: is no readable image" in outcome(tmp_path / "bad.png")[0]["error"]


def test_folder_named_png(outcome, tmp_path):
    (tmp_path / "bad.png").mkdir()
    assert "bad.png: cannot be read" in outcome(tmp_path / "bad.png")[0]["error"]


def test_16_bits_and_alpha_are_converted_and_said(outcome, write_image, picture):
    deep = write_image("deep.png", picture.astype(np.uint16) * 257)
    alpha = write_image("alpha.png", np.dstack([picture] * 3 + [np.full_like(picture, 7)]))
    rows = outcome(deep, alpha)
    assert rows[0]["hc_mm"] == rows[1]["hc_mm"] != ""
    assert "uint16 image scaled to 8 bits" in rows[0]["notes"]
    assert "converted to grey" in rows[1]["notes"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 400)])
def test_tiny_images(outcome, write_image, height, width):
    (row,) = outcome(write_image("tiny.png", np.zeros((height, width), np.uint8)))
    assert f"{width}x{height} px is too small" in row["error"]


def test_huge_images(outcome, write_image):
    (row,) = outcome(write_image("huge.png", np.zeros((10_000, 10_000), np.uint8)))
    assert "10000x10000 px is too large" in row["error"]


def test_a_large_image_within_the_limit_is_measured(outcome, write_image, picture):
    (row,) = outcome(write_image("large.png", cv2.resize(picture, (3000, 2000))))
    assert float(row["hc_mm"]) > 100


@pytest.mark.parametrize(
    "name", ["..png", "a;b.png", "-rf.png", "a\nb.png", "%2e%2e%2fetc.png", "..\\..\\x.png", "ä.png"]
)
def test_odd_names_stay_in_the_folder(outcome, write_image, tmp_path, name):
    (tmp_path / "x.png").write_bytes(cv2.imencode(".png", SMALL)[1].tobytes())
    (tmp_path / "x.png").rename(tmp_path / name)
    (row,) = outcome(tmp_path / name)
    assert (tmp_path / "out" / row["mask"]).parent == tmp_path / "out" / "masks"
    assert row["file"] == str(tmp_path / name)
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"masks", "overlays", "biometry.csv"}


def test_paths_that_climb_are_read_and_results_stay(outcome, write_image, tmp_path):
    write_image("in/x.png", SMALL)
    (row,) = outcome(tmp_path / "in" / ".." / "in" / "x.png")
    assert row["mask"] == "masks/x.png"


def test_nothing_found(outcome, write_image):
    (row,) = outcome(write_image("dark.png", np.zeros((200, 300), np.uint8)))
    assert (row["flags_fb"], row["flags_fl"], row["hc_mm"], row["ga_hadlock_weeks"]) == ("empty", "empty", "", "")
    assert row["error"] == ""


def test_an_object_that_touches_every_border(outcome, write_image):
    (row,) = outcome(write_image("white.png", np.full((200, 300), 255, np.uint8)))
    assert row["flags_fb"].split() == ["touches_border", "not_measurable"]
    assert row["hc_mm"] == ""


def test_a_decoder_that_breaks_loses_one_file_only(outcome, write_image, monkeypatch):
    def broken(path):
        raise MemoryError("no room")

    path = write_image("broken.dcm.png", SMALL)
    monkeypatch.setattr("famseg.prediction.scans.is_dicom", lambda file: broken(file) if file == path else False)
    assert "MemoryError" in outcome(path)[0]["error"]


def test_no_pixel_size(outcome, predictor, write_image, picture, tmp_path):
    job = Job([predictor], tmp_path / "plain", lambda path: math.nan)
    (result,) = predict([write_image("a.png", picture)], job)
    assert (result.row["flags_fb"], result.row["hc_mm"]) == ("no_pixel_size", "")
