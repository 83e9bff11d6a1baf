import logging
import math
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only

from famseg.data.folder import Folder, datamodule
from famseg.errors import UserError


def test_images_labels_spacing_and_subjects_come_together(folder_root):
    source = Folder(folder_root)
    sample = source[2]
    assert (sample.name, sample.group, sample.spacing) == ("2.png", "woman2", 0.3)
    assert source.classes == {"BG": 0, "FL": 1, "FB": 2}
    assert (sample.mask[5:20, 5:25] == 2).all()
    assert (sample.mask[30:34, 20:50] == 1).all()
    assert list(source.problems()) == []


def test_without_a_table_millimetres_and_subjects_are_unknown_and_said_so(folder_root):
    (folder_root / "spacing.csv").unlink()
    source = Folder(folder_root)
    assert math.isnan(source[0].spacing)
    assert source.groups == source.names
    spacing, subject = source.problems(decode=False)
    assert "no pixel size for 6 images" in spacing.what
    assert "no subject for 6 images" in subject.what
    assert not spacing.fatal
    assert not subject.fatal


def test_a_pixel_size_that_no_ultrasound_image_has_is_said(folder_root):
    """It is used: sets that are small copies of others are no mistake."""
    table = folder_root / "spacing.csv"
    table.write_text(table.read_text().replace("0.png,0.1", "0.png,12"))
    source = Folder(folder_root)
    assert source[0].spacing == 12
    (odd,) = source.problems(decode=False)
    assert "pixel size 12 is outside the 0.02 to 2 mm" in odd.what
    assert not odd.fatal


def test_ids_and_colours_of_the_user(folder_root):
    label = np.zeros((40, 56, 3), np.uint8)
    label[10:20, 10:20] = (200, 0, 0)  # blue in OpenCV's order
    for path in (folder_root / "labels").iterdir():
        cv2.imwrite(str(path), label)
    source = Folder(folder_root, ids={"BG": 0, "heart": 7}, colours={"BG": [0, 0, 0], "heart": [0, 0, 200]})
    assert np.unique(source[0].mask).tolist() == [0, 7]
    data = datamodule(folder_root, {"BG": 0, "heart": 7}, {"BG": [0, 0, 0], "heart": [0, 0, 200]}, folds=3)
    data.setup("test")
    assert next(iter(data.test_dataloader()))["mask"].unique().tolist() == [0, 1]


def test_the_first_class_is_the_background_whatever_it_is_called(folder_root):
    """Reports took one that is not called BG for an object, with claims about its Dice."""
    colours = {"background": [0, 0, 0], "femur": [255, 0, 0], "head": [0, 255, 0]}
    source = Folder(folder_root, {"background": 0, "femur": 1, "head": 2}, colours)
    assert source.classes == {"BG": 0, "femur": 1, "head": 2}
    assert source[0].known == {"BG", "femur", "head"}
    label = np.zeros((40, 56, 3), np.uint8)
    label[10:20, 10:20] = (0, 255, 0)
    cv2.imwrite(str(folder_root / "labels/0.png"), label)
    assert np.unique(source[0].mask).tolist() == [0, 2]


def test_deep_images_are_converted_and_said_once(folder_root, caplog):
    for number in (0, 1):
        cv2.imwrite(str(folder_root / f"images/{number}.png"), np.full((40, 56), 1000 + number, np.uint16))
    source = Folder(folder_root)
    with caplog.at_level(logging.WARNING):
        assert source[0].image.dtype == source[1].image.dtype == np.uint8
    assert len(caplog.records) == 1
    assert [problem.fatal for problem in source.problems()] == [False] * 3  # each file, and that they are mixed


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_missing_folders_are_named(folder_root, missing):
    (folder_root / missing).rename(folder_root / "elsewhere")
    with pytest.raises(UserError, match=rf"{missing}: this folder is missing"):
        Folder(folder_root)


def test_an_empty_set_is_refused(folder_root):
    for path in (folder_root / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="images: holds no images"):
        Folder(folder_root)


def test_missing_and_spare_labels_are_found_without_decoding(folder_root):
    (folder_root / "labels/3.png").rename(folder_root / "labels/spare.png")
    missing, spare = Folder(folder_root).problems(decode=False)
    assert (Path(missing.file).name, missing.fatal) == ("3.png", True)
    assert (Path(spare.file).name, spare.fatal) == ("spare.png", False)


@pytest.mark.parametrize("apart", ["images", "labels"])
def test_umlauts_are_the_same_however_a_computer_writes_them(folder_root, apart):
    """A Mac writes two codes; the table was typed elsewhere."""
    for folder in ("images", "labels"):
        name = unicodedata.normalize("NFD" if folder == apart else "NFC", "größe.png")
        (folder_root / folder / "2.png").rename(folder_root / folder / name)
    table = folder_root / "spacing.csv"
    table.write_text(table.read_text().replace("2.png", unicodedata.normalize("NFC", "größe.png")))
    source = Folder(folder_root)
    assert list(source.problems()) == []
    assert (source[5].group, source[5].spacing) == ("woman2", 0.3)
    assert source[5].mask.any()


def test_a_label_may_end_in_capitals_as_an_image_may(folder_root):
    (folder_root / "labels/0.png").rename(folder_root / "labels/0.PNG")
    source = Folder(folder_root)
    assert list(source.problems()) == []
    assert source[0].mask.any()


def test_what_lies_beside_the_images_is_named(folder_root):
    (folder_root / "images/.hidden").touch()
    for name in ("a.dcm", "b.dcm", "c.webp"):
        (folder_root / "images" / name).touch()
    (folder_root / "images/patient_7").mkdir()
    (unused,) = Folder(folder_root).problems(decode=False)
    assert (Path(unused.file).name, unused.what) == ("images", "not used: a.dcm, b.dcm, c.webp and 1 more")
    assert not unused.fatal
    for path in (folder_root / "images").glob("*.png"):
        path.rename(folder_root / "images/patient_7" / path.name)
    with pytest.raises(UserError, match=r"holds no images.* no folders below"):
        Folder(folder_root)


def test_two_images_may_not_share_a_label(folder_root):
    cv2.imwrite(str(folder_root / "images/3.jpg"), np.zeros((40, 56), np.uint8))
    problems = [problem for problem in Folder(folder_root).problems(decode=False) if problem.fatal]
    assert [problem.what for problem in problems] == ["shares its label with 3.jpg"]


def test_bad_rows_are_found_without_decoding(folder_root):
    table = folder_root / "spacing.csv"
    table.write_text(table.read_text().replace("1.png,0.2", "1.png,0") + "99.png,0.1,x\n")
    zero, unknown = [p for p in Folder(folder_root).problems(decode=False) if ", row " in p.file]
    assert ("row 1.png" in zero.file, zero.fatal) == (True, True)
    assert ("row 99.png" in unknown.file, unknown.fatal) == (True, False)


def test_training_says_once_that_rows_fit_no_image_and_subjects_are_lost(folder_root, caplog):
    """Without a word, images of one woman would be in training and in test, and no result would be in mm."""
    table = folder_root / "spacing.csv"
    table.write_text(table.read_text().replace(".png", ""))
    data = datamodule(folder_root, folds=3, size=(32, 32), batch_size=1)
    data.setup("fit")
    data.setup("test")
    spacing, subject, row, more = [record.getMessage() for record in caplog.records]
    assert "no pixel size for 6 images, 0.png first" in spacing
    assert "no subject for 6 images, 0.png first: images of one subject may end up in training and test" in subject
    assert row.endswith("row 0: has no image and is not used. Give the image's whole name, with its suffix.")
    assert more == "5 more warnings: `famseg data check` lists them."


def test_a_doubled_row_is_one_problem_among_others(folder_root):
    table = folder_root / "spacing.csv"
    table.write_text(table.read_text() + "1.png,0.3,x\n")
    (folder_root / "labels/3.png").unlink()
    missing, doubled = [problem for problem in Folder(folder_root).problems(decode=False) if problem.fatal]
    assert missing.file.endswith("3.png")
    assert str(doubled) == f"{table}, row 1.png: the file is listed twice. Remove one of the rows."


def without_femur(folder_root, names="012345"):
    for name in names:
        path = str(folder_root / f"labels/{name}.png")
        label = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(path, np.where(label == 1, 0, label))


@pytest.mark.parametrize(
    ("names", "options", "warned"),
    [
        ("012345", {}, True),
        ("01234", {}, False),  # one femur is left
        ("012345", {"absent": ["FL"]}, False),
        ("012345", {"ids": {"BG": 0, "FB": 2}}, False),
    ],
)
def test_a_class_that_no_label_shows_is_named(folder_root, names, options, warned):
    without_femur(folder_root, names)
    found = [problem for problem in Folder(folder_root, **options).problems() if "in no label" in problem.what]
    assert [(Path(p.file).name, p.what[:9], p.fatal) for p in found] == [("labels", "FL (id 1)", False)] * warned
    assert all("data.ids" in problem.mend and "data.absent=[FL]" in problem.mend for problem in found)


def test_a_class_may_be_in_a_label_that_cannot_be_read(folder_root):
    without_femur(folder_root)
    (folder_root / "labels/0.png").write_bytes(b"no image")
    assert not any("in no label" in problem.what for problem in Folder(folder_root).problems())


def test_of_several_processes_the_first_one_speaks(folder_root, caplog, monkeypatch):
    without_femur(folder_root)
    (folder_root / "spacing.csv").unlink()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    datamodule(folder_root, folds=3, size=(32, 32), batch_size=1).setup("fit")
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
def test_training_names_a_class_that_no_label_shows(folder_root, tmp_path, caplog, cache):
    without_femur(folder_root)
    for _ in range(2 if cache == "disk" else 1):  # written, then found
        caplog.clear()
        data = datamodule(folder_root, folds=3, size=(32, 32), batch_size=1, cache=cache, cache_dir=tmp_path / "cache")
        data.setup("fit")
        data.setup("test")
        assert caplog.text.count("The training images: FL (id 1) is in no label") == 1
        assert "FB (id 2)" not in caplog.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,mm\n0.png,1\n", "has no column 'file'. Write the columns file,mm_per_pixel,subject"),
    ],
)
def test_foreign_tables_are_named(folder_root, text, says):
    (folder_root / "spacing.csv").write_text(text)
    with pytest.raises(UserError, match=rf"spacing\.csv.*{says}"):
        Folder(folder_root)


@pytest.mark.parametrize("name", ["0.jpg", "0_mask.png"])
def test_a_label_of_another_name_or_format_is_pointed_at(folder_root, name):
    (folder_root / "labels/0.png").rename(folder_root / "labels" / name)
    first = next(Folder(folder_root).problems())
    assert (Path(first.file).name, first.what) == ("0.png", "is missing")
    assert name in first.mend


def test_every_unusable_picture_is_found(folder_root):
    cv2.imwrite(str(folder_root / "labels/0.png"), np.zeros((20, 20), np.uint8))
    cv2.imwrite(str(folder_root / "labels/1.png"), np.full((40, 56), 9, np.uint8))
    cv2.imwrite(str(folder_root / "labels/2.png"), np.zeros((40, 56), np.uint8))
    (folder_root / "images/3.png").write_bytes((folder_root / "images/3.png").read_bytes()[:200])
    found = {Path(p.file).name: (p.fatal, p.what) for p in Folder(folder_root).problems()}
    assert found["0.png"] == (True, "the label has 20x20 px, its image 56x40")
    assert found["1.png"] == (True, "label ids [9] belong to no class")
    assert found["2.png"] == (False, "holds background only")
    assert found["3.png"][0]


@pytest.mark.parametrize(
    ("ids", "colours", "says"),
    [
        ({"BG": 0, "a": 0}, None, "id of its own"),
        ({"BG": 0, "a": 300}, None, "0 to 255"),
        ({"FB": 2, "BG": 0}, None, "bg is not first. Name the background first"),
        ({"FB": 2, "Background": 0}, None, "background is not first"),
        ({"BG": 0, "FB": 2, "fb": 3}, None, "differ by capitals only"),
        ({"BG": 0, "a": 1}, {"b": [1, 2, 3]}, "b is no class"),
        ({"BG": 0, "a": 1}, {"BG": [0, 0, 0], "a": [0, 0, 0]}, "colour of its own"),
    ],
)
def test_contradicting_options_are_refused(folder_root, ids, colours, says):
    with pytest.raises(UserError, match=says):
        Folder(folder_root, ids, colours)


def test_mixed_bit_depths_are_named(folder_root):
    path = folder_root / "images" / "3.png"
    assert cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype("uint16") * 100)
    problems = [str(problem) for problem in Folder(folder_root).problems()]
    assert any("mixed bit depths: 1 of 6 images are scaled to their brightest pixel" in text for text in problems)
    assert not any("mixed" in str(problem) for problem in Folder(folder_root).problems(decode=False))


def test_classes_of_a_table_and_what_is_not_listed_is_unknown(folder_root):
    assert Folder(folder_root)[0].known == {"BG", "FL", "FB"}
    (folder_root / "classes.csv").write_text("name,id\nBG,0\nLV,1\nCSP,2\n")
    own = Folder(folder_root, absent=["FL"])
    assert own.classes == {"BG": 0, "LV": 1, "CSP": 2}
    assert own[0].known == {"BG", "LV", "CSP", "FL"}
    (folder_root / "classes.csv").write_text("name,id\nBG,zero\n")
    with pytest.raises(UserError, match=r"classes\.csv: an id is no whole number"):
        Folder(folder_root)
