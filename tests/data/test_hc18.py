import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from famseg.biometry import Ellipse
from famseg.data.hc18 import HC18, TABLE, datamodule
from famseg.errors import UserError

real = pytest.mark.skipif("FAMSEG_HC18" not in os.environ, reason="FAMSEG_HC18 does not point to HC18's folder")


def edit_table(root, old, new):
    table = root / TABLE
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))


def test_masks_are_the_filled_mid_line_ellipse(hc18_root):
    sample = HC18(hc18_root)[0]
    expected = Ellipse(64, 48, 40, 30, 0.3).mask(96, 128) * 2
    assert sample.mask.dtype == np.uint8
    assert (sample.mask != expected).mean() < 1e-3  # the drawn ring is made of whole pixels


def test_an_ellipse_that_leaves_the_picture_is_cut_at_the_border(hc18_root):
    source = HC18(hc18_root)
    sample = source[source.names.index("002_HC.png")]
    expected = Ellipse(110, 48, 42, 32, 0.1).mask(96, 128) * 2
    assert expected[:, -1].any()
    assert (sample.mask != expected).mean() < 2e-3


def test_sample_knows_examination_spacing_and_circumference(hc18_root):
    source = HC18(hc18_root)
    sample = source[source.names.index("001_2HC.png")]
    assert (sample.name, sample.group, sample.spacing) == ("001_2HC.png", "001", 0.25)
    assert sample.truth["hc_mm"] == pytest.approx(Ellipse(62, 46, 36, 29, 1.3).perimeter() * 0.25, abs=0.01)
    assert source.groups == ["000", "001", "001", "002", "003", "004"]


def test_a_sound_set_has_no_problems(hc18_root):
    assert list(HC18(hc18_root).problems()) == []


def test_wrong_folders_are_named_with_the_way_to_get_the_set(tmp_path, hc18_root):
    with pytest.raises(UserError, match=r"no folder training_set.*`famseg data download hc18 "):
        HC18(tmp_path / "nowhere")
    (hc18_root / TABLE).unlink()
    with pytest.raises(UserError, match=rf"{TABLE}: cannot be read.*`famseg data download"):
        HC18(hc18_root)


def test_foreign_and_empty_tables_are_named(hc18_root):
    edit_table(hc18_root, "pixel size(mm)", "spacing")
    with pytest.raises(UserError, match=r"has no column 'pixel size\(mm\)'"):
        HC18(hc18_root)
    (hc18_root / TABLE).write_text("filename,pixel size(mm),head circumference (mm)\n")
    with pytest.raises(UserError, match="the table is empty"):
        HC18(hc18_root)


@pytest.mark.parametrize("value", ["0", "", "-0.1", "n/a"])
def test_impossible_pixel_size_is_found_without_decoding(hc18_root, value):
    edit_table(hc18_root, "000_HC.png,0.25", f"000_HC.png,{value}")
    (problem,) = HC18(hc18_root).problems(decode=False)
    assert "row 000_HC.png" in problem.file
    assert problem.fatal


def test_missing_files_are_found_without_decoding(hc18_root):
    (hc18_root / "training_set/003_HC_Annotation.png").unlink()
    (hc18_root / "training_set/004_HC.png").unlink()
    found = [Path(problem.file).name for problem in HC18(hc18_root).problems(decode=False) if problem.fatal]
    assert found == ["003_HC_Annotation.png", "004_HC.png"]


def test_doubled_and_forgotten_rows_are_found(hc18_root):
    edit_table(hc18_root, "003_HC.png", "000_HC.png")
    doubled, forgotten = HC18(hc18_root).problems(decode=False)
    assert "row 000_HC.png" in doubled.file
    assert doubled.fatal
    assert forgotten.file.endswith("003_HC.png")
    assert not forgotten.fatal


def test_annotation_of_another_size_or_without_ellipse_is_named(hc18_root):
    cv2.imwrite(str(hc18_root / "training_set/000_HC_Annotation.png"), np.zeros((50, 60), np.uint8))
    cv2.imwrite(str(hc18_root / "training_set/003_HC_Annotation.png"), np.zeros((96, 128), np.uint8))
    size, empty = HC18(hc18_root).problems()
    assert "60x50 px, its image 128x96" in size.what
    assert "003_HC_Annotation.png" in empty.file
    with pytest.raises(UserError, match=r"000_HC_Annotation\.png: the annotation has 60x50 px"):
        HC18(hc18_root)[0]


def test_circumference_that_contradicts_the_outline_is_a_warning(hc18_root):
    edit_table(hc18_root, "000_HC.png,0.25", "000_HC.png,0.30")
    (problem,) = HC18(hc18_root).problems()
    assert "circumference differs by +11" in problem.what
    assert not problem.fatal


def test_training_refuses_a_bad_set_and_names_the_file(hc18_root):
    (hc18_root / "training_set/003_HC_Annotation.png").unlink()
    with pytest.raises(UserError, match=r"003_HC_Annotation\.png: is in the table, but missing"):
        datamodule(hc18_root, folds=3, batch_size=1).setup("fit")


@real
@pytest.mark.parametrize("stem", ["186_HC", "346_HC", "628_2HC", "787_HC"])
def test_real_ellipses_that_leave_the_picture_fill_to_the_border(stem):
    source = HC18(os.environ["FAMSEG_HC18"])
    sample = source[source.names.index(f"{stem}.png")]
    edges = [sample.mask[0], sample.mask[-1], sample.mask[:, 0], sample.mask[:, -1]]
    assert any(edge.any() for edge in edges)
    assert 0.1 < (sample.mask == 2).mean() < 0.9


@pytest.mark.slow
@real
def test_real_set_is_sound():
    assert [str(problem) for problem in HC18(os.environ["FAMSEG_HC18"]).problems()] == []
