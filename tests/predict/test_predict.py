import csv
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from famseg.errors import UserError
from famseg.prediction import predict as predict_module
from famseg.prediction.hc18_submission import write_submission
from famseg.prediction.predict import Job, load_members, predict, unique_stems

SPACING = 0.25


@pytest.fixture
def job(predictor, tmp_path):
    return Job([predictor], tmp_path / "out", lambda path: SPACING, weeks=20.0)


def table(job):
    with (job.out / "biometry.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_picture_gets_mask_overlay_and_millimetres(job, write_image, picture, head):
    predict([write_image("a.png", picture)], job)
    mask = cv2.imread(str(job.out / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert (mask.shape, mask.dtype, set(np.unique(mask))) == (picture.shape, np.uint8, {0, 1, 2})
    assert cv2.imread(str(job.out / "overlays" / "a.png")).shape[1] == 960
    (row,) = table(job)
    assert next(iter(row)) == "notice"
    assert "not a medical device" in row["notice"].lower()
    assert float(row["hc_mm"]) == pytest.approx(head.perimeter() * SPACING, rel=0.01)
    assert float(row["fl_mm"]) == pytest.approx(60 * SPACING, abs=2 * SPACING)
    assert (row["mask"], row["overlay"], row["error"]) == ("masks/a.png", "overlays/a.png", "")


def test_results_do_not_depend_on_the_batch(job, write_image, picture):
    files = [write_image(f"{i}.png", np.roll(picture, i, axis=1)) for i in range(5)]
    rows = []
    for batch in (1, 2, 8):
        predict(files, job, batch)
        rows.append(table(job))
    assert rows[0] == rows[1] == rows[2]
    assert [Path(row["file"]) for row in rows[0]] == files


def test_the_table_has_all_columns_even_if_the_first_file_is_bad(job, write_image, picture, tmp_path):
    results = predict([tmp_path / "gone.png", write_image("a.png", picture)], job)
    bad, good = table(job)
    assert "gone.png" in bad["error"]
    assert (bad["hc_mm"], good["error"]) == ("", "")
    assert [bool(result.error) for result in results] == [True, False]


def test_an_interrupted_run_keeps_what_it_has(job, write_image, picture, monkeypatch):
    files = [write_image(f"{i}.png", picture) for i in range(3)]
    read = predict_module.read_scan

    def interrupt(path, spacing):
        if path == files[2]:
            raise KeyboardInterrupt
        return read(path, spacing)

    monkeypatch.setattr(predict_module, "read_scan", interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(files, job, batch=1)
    assert len(table(job)) == 2


def test_a_run_interrupted_before_its_first_result_leaves_no_table(job, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "read_scan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        predict([tmp_path / "a.png"], job)
    assert not (job.out / "biometry.csv").exists()


def test_names_of_results():
    files = [
        Path(name) for name in ("a/1.png", "b/1.png", "b/1.jpg", "1-2.png", "..png", "x\ny;z.png", "A.png", "a.png")
    ]
    names = list(unique_stems(files).values())
    assert names == ["1", "1-2", "1-3", "1-2-2", "image", "x_y_z", "A", "a-2"]


def test_results_never_follow_a_link_out_of_the_folder(job, write_image, picture, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (job.out / "masks").mkdir(parents=True)
    (job.out / "masks" / "a.png").symlink_to(victim)
    predict([write_image("a.png", picture)], job)
    assert victim.read_text() == "precious"
    assert not (job.out / "masks" / "a.png").is_symlink()


def test_a_folder_that_cannot_be_written_is_named(job, write_image, picture, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="taken"):
        predict([write_image("a.png", picture)], replace(job, out=tmp_path / "taken"))


def test_ensembles_need_the_same_classes(checkpoint, predictor, monkeypatch):
    assert len(load_members([str(checkpoint)] * 2, "cpu", flip=True)) == 2
    others = {"a": predictor, "b": replace(predictor, classes={"BG": 0, "FB": 2})}
    monkeypatch.setattr(predict_module, "load_network", lambda where, *_: others[where])
    with pytest.raises(UserError, match=r"b: its classes .* are not those of a"):
        load_members(["a", "b"], "cpu")


def test_submission_draws_the_same_ellipse_again(job, write_image, picture, tmp_path):
    """Whoever draws the line of the file on the picture, as OpenCV does, must hit the head."""
    results = predict([write_image("000_HC.png", picture), tmp_path / "gone.png"], job)
    missing = write_submission(tmp_path / "sub.csv", results)
    assert len(missing) == 1
    assert "gone.png" in missing[0]
    header, line = (tmp_path / "sub.csv").read_text().splitlines()
    assert header == "filename,center_x_mm,center_y_mm,semi_axes_a_mm,semi_axes_b_mm,angle_rad"
    name, *numbers = line.split(",")
    x, y, a, b, angle = map(float, numbers)
    assert name == "000_HC.png"
    assert a >= b
    assert 0 <= angle < math.pi
    centre, axes = (round(x / SPACING), round(y / SPACING)), (round(a / SPACING), round(b / SPACING))
    drawn = cv2.ellipse(np.zeros(picture.shape, np.uint8), centre, axes, math.degrees(angle), 0, 360, 1, cv2.FILLED)
    inside = picture == 255
    assert 2 * (inside & (drawn > 0)).sum() / (inside.sum() + drawn.sum()) > 0.98
