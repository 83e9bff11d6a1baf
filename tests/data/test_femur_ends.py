import csv
import re

import cv2
import numpy as np
import pytest

from famseg.biometry import measure_femur
from famseg.data.femur import FemurEnds, capsule, datamodule
from famseg.errors import UserError

HEADER = ["image_name", "fl_1_x", "fl_1_y", "fl_2_x", "fl_2_y", "px_to_mm_rate", "Patient", "Split"]
ROWS = [
    ["Patient1_Plane5_1_of_2.png", 20, 60, 170, 75, 0.2, "1", "Train"],
    ["Patient1_Plane5_2_of_2.png", 40.5, 30.25, 150.5, 90.75, 0.2, "1", "Train"],
    ["Patient2_Plane5_1_of_1.png", 30, 100, 180, 20, 0.25, "2", "Test"],
    ["Patient3_Plane5_1_of_1.png", 100, 10, 100, 110, 0.3, "3", "Test"],
]


@pytest.fixture
def femur_root(tmp_path):
    """The published layout, with made-up pictures of 120x200 px."""
    root = tmp_path / "femora"
    (root / "Images").mkdir(parents=True)
    for row in ROWS:
        noise = np.random.default_rng(len(row[0])).integers(0, 256, (120, 200), dtype=np.uint8)
        assert cv2.imwrite(str(root / "Images" / row[0]), noise)
    write_table(root, ROWS)
    return root


def write_table(root, rows, header=HEADER, name="Femur.csv"):
    path = root / "FP" / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def changed(root, **cells):
    """The table with the last row's cells changed; all problems then."""
    write_table(root, [*ROWS[:-1], [cells.get(name, value) for name, value in zip(HEADER, ROWS[-1], strict=True)]])
    source = FemurEnds(root)
    return source, [str(problem) for problem in source.problems()]


def test_the_tips_of_the_masks_are_the_end_points(femur_root):
    source = FemurEnds(femur_root)
    for row, sample in zip(ROWS, source, strict=True):
        measured = measure_femur(sample.mask == 1, sample.spacing)
        ends = np.array(row[1:5], float).reshape(2, 2)
        ends = ends[np.argsort(ends[:, 0], kind="stable")]
        tips = measured.tips if ends[0, 0] != ends[1, 0] else measured.tips[np.argsort(measured.tips[:, 1])]
        np.testing.assert_allclose(tips, ends, atol=0.5)
        assert measured.fl_mm == pytest.approx(sample.truth["fl_mm"], abs=0.1)
        assert measured.width_mm == pytest.approx(4, rel=0.1)


def test_samples_say_what_the_table_says(femur_root):
    source = FemurEnds(femur_root)
    assert source.groups == ["1", "1", "2", "3"]
    assert source[2].truth == {"fl_mm": 42.5}
    assert (source[3].spacing, source[3].known) == (0.3, {"BG", "FL"})
    assert not list(source.problems())


@pytest.mark.parametrize("angle", np.linspace(0, np.pi, 7))
def test_capsule_has_the_area_of_a_bar_with_round_ends(angle):
    middle, half = np.array([60.3, 50.7]), 40 * np.array([np.cos(angle), np.sin(angle)])
    area = capsule(tuple(middle - half), tuple(middle + half), 12, (100, 120)).sum()
    assert area == pytest.approx(12 * (80 - 12) + np.pi * 36, rel=0.01)


def test_a_capsule_is_never_thicker_than_long():
    disc = capsule((10, 10), (14, 10), 20, (21, 25))
    assert disc.sum() == pytest.approx(np.pi * 4, abs=2)
    assert not disc[:, 15:].any()


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"px_to_mm_rate": ""}, "has no pixel size"),
        ({"px_to_mm_rate": "-0.2"}, "has no pixel size"),
        ({"px_to_mm_rate": 1.38}, r"a femur of 138\.0 mm is outside 5 to 90 mm"),
        ({"px_to_mm_rate": 0.04}, r"a femur of 4\.0 mm is outside"),
        ({"fl_1_y": 110}, "its end points are equal"),
        ({"fl_1_y": ""}, "an end point is missing"),
        ({"fl_2_x": 200}, r"end point \(200, 110\) lies outside the picture of 200x120 px"),
    ],
)
def test_rows_that_cannot_be_right_are_left_out_and_named(femur_root, cells, says):
    source, problems = changed(femur_root, **cells)
    assert len(source) == 3
    (problem,) = problems
    assert "Femur.csv, row Patient3_Plane5_1_of_1.png: is left out" in problem
    assert re.search(says, problem), problem


def test_row_without_image_stops_and_image_without_row_is_said(femur_root):
    source, problems = changed(femur_root, image_name="gone.png")
    assert any("row gone.png: has no image below" in problem for problem in problems)
    assert any("1 images have no row in Femur.csv" in problem for problem in problems)
    with pytest.raises(UserError, match=r"gone\.png: has no image"):
        datamodule(femur_root, fold="all", mean=0.5, std=0.2).setup("test")
    with pytest.raises(UserError, match=r"gone\.png: has no image"):
        source[3]


def test_twice_listed_and_unknown_subjects_are_named(femur_root):
    write_table(femur_root, [*ROWS, ROWS[0], [*ROWS[1][:6], "", ""]])
    problems = [str(problem) for problem in FemurEnds(femur_root).problems()]
    assert any("Patient1_Plane5_1_of_2.png: the image is listed twice" in problem for problem in problems)
    assert any("no subject" in problem for problem in problems)


def test_other_parts_of_the_set_call_the_subject_differently(femur_root):
    write_table(femur_root, ROWS, [*HEADER[:6], "SubjectID", "Split"])
    assert FemurEnds(femur_root).groups == ["1", "1", "2", "3"]


def test_unusable_tables_are_named(femur_root):
    write_table(femur_root, ROWS, name="other/Femur.csv")
    with pytest.raises(UserError, match=r"several tables \(FP/annotations/Femur.csv, .*data\.table=FP/annotations"):
        FemurEnds(femur_root)
    assert len(FemurEnds(femur_root, table="FP/annotations/Femur.csv")) == 4
    with pytest.raises(UserError, match=r"holds no Femur\.csv.*famseg data download femur"):
        FemurEnds(femur_root / "Images")
    write_table(femur_root, [])
    with pytest.raises(UserError, match="the table is empty"):
        FemurEnds(femur_root, table="FP/annotations/Femur.csv")
    write_table(femur_root, [[*ROWS[0][:5], 0, "1", ""]])
    with pytest.raises(UserError, match=r"no row can be used.*no pixel size"):
        FemurEnds(femur_root, table="FP/annotations/Femur.csv")


def test_width_must_be_possible(femur_root):
    with pytest.raises(UserError, match=r"data\.width_mm=0"):
        FemurEnds(femur_root, width_mm=0)
