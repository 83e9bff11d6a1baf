"""COCO, LabelMe and CVAT: what arrives, and what is said of what does not."""

import re

import numpy as np
import pytest

from famseg.cli import main
from famseg.data.convert.coco import read_coco
from famseg.data.convert.cvat import read_cvat
from famseg.data.convert.labelme import read_labelme
from famseg.data.convert.plan import Plan, with_table, write_folder
from famseg.data.convert.polygons import ellipse_points, polygon_mask
from famseg.data.folder import Folder
from famseg.errors import UserError

RENAME = {"head": "FB", "femur": "FL"}
READERS = {"coco": read_coco, "labelme": read_labelme, "cvat": read_cvat}


def read(name, path, rename=RENAME):
    return READERS[name](path, rename=rename)


def texts(plan: Plan):
    return [str(problem) for problem in plan.problems]


@pytest.mark.parametrize("name", READERS)
def test_masks_and_images_arrive_pixel_by_pixel(name, request, tmp_path, expected):
    plan = read(name, request.getfixturevalue(name))
    assert write_folder(plan, tmp_path / "own") == []
    folder = Folder(tmp_path / "own")
    assert folder.classes == {"BG": 0, "FL": 1, "FB": 2}
    np.testing.assert_array_equal(folder[0].mask, expected)
    for sample, entry in zip(folder, plan.entries, strict=True):
        np.testing.assert_array_equal(sample.image, entry.load()[0])


def test_cocos_run_lengths_go_down_the_columns(coco, expected):
    np.testing.assert_array_equal(read("coco", coco).entries[1].load()[1], np.where(expected == 2, 2, 0))
    assert not read("coco", coco).entries[2].load()[1].any()  # no annotation: background


def test_without_renaming_classes_keep_their_names_and_get_free_ids(labelme, tmp_path):
    plan = read("labelme", labelme, {})
    assert plan.classes == {"BG": 0, "head": 3, "femur": 4}
    write_folder(plan, tmp_path / "own")
    assert Folder(tmp_path / "own").classes == plan.classes
    with pytest.raises(UserError, match=r"--rename skull: the data has no such class\. It has head, femur"):
        read("labelme", labelme, {"skull": "FB"})


def test_folders_in_a_name_keep_files_apart(coco):
    assert [entry.name for entry in read("coco", coco).entries] == ["a_1.png", "b_1.png", "c_1.png"]


def test_polygons_hold_the_pixels_whose_centre_they_enclose():
    square = polygon_mask([(1, 1), (4, 1), (4, 3), (1, 3)], 5, 6)
    np.testing.assert_array_equal(square, np.pad(np.ones((2, 3), bool), ((1, 2), (1, 2))))
    disc = polygon_mask(ellipse_points(30.3, 20.8, 15), 45, 60)
    y, x = np.mgrid[:45, :60] + 0.5
    assert (disc != (np.hypot(x - 30.3, y - 20.8) < 15)).sum() <= 2  # 256 corners are no circle
    assert polygon_mask([(-9, -9), (99, -9), (99, 99), (-9, 99)], 5, 6).all()


def test_missing_images_are_named_and_images_without_entry_left_out(coco, labelme, cvat, picture):
    for root, name in ((coco.parent, "b/1.png"), (labelme, "1.png"), (cvat / "JPEGImages", "1.png")):
        (root / name).unlink()
        picture(root / "new.png")
    assert any(
        re.search(r"b/1\.png: is listed in instances\.json, but missing", text) for text in texts(read("coco", coco))
    )
    assert any("new.png: has no entry" in text for text in texts(read("coco", coco)))
    assert any(re.search(r"1\.json: its image .*1\.png is missing", text) for text in texts(read("labelme", labelme)))
    assert any("new.png: has no JSON file" in text for text in texts(read("labelme", labelme)))
    assert any(re.search(r"1\.png: has no image in", text) for text in texts(read("cvat", cvat)))
    assert any("new.png: has no mask" in text for text in texts(read("cvat", cvat)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["annotations"][0].update(image_id=99), "annotation 7 has image_id 99, which is not listed"),
        (lambda c: c["annotations"][1].update(category_id=4), "annotation 8 has category_id 4"),
        (lambda c: c.pop("categories"), "has no 'categories'"),
        (lambda c: c["images"][1].pop("height"), "an entry of 'images' has no 'height'"),
    ],
)
def test_coco_files_that_contradict_themselves_are_named(coco, edit, change, says):
    edit(coco, change)
    with pytest.raises(UserError, match=says):
        read("coco", coco)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("coco", lambda c: c["images"][0].update(height=9), "has 72x48 px, its entry says 72x9"),
        ("coco", lambda c: c["annotations"][0].update(segmentation={"counts": "abc"}), "neither polygons nor"),
        ("coco", lambda c: c["annotations"][2]["segmentation"].update(size=[1, 2]), "annotation 9 has another size"),
        ("labelme", lambda c: c["shapes"][0].update(shape_type="line"), "a line of 4 points encloses no area"),
        ("labelme", lambda c: c.update(imageHeight=96, imageWidth=144), "72x48 px, 0.json was drawn on 144x96. Give"),
    ],
)
def test_images_that_cannot_be_converted_are_left_out_and_named(name, change, says, request, edit, tmp_path):
    path = request.getfixturevalue(name)
    edit(path if name == "coco" else path / "0.json", change)
    problems = write_folder(read(name, path), tmp_path / "own")
    assert [re.search(says, str(problem)) is not None for problem in problems] == [True]
    assert len(list((tmp_path / "own/images").iterdir())) == 2


def test_labelme_files_without_a_size_are_taken_as_they_are(labelme, edit, expected):
    edit(labelme / "0.json", lambda content: content.update(imageHeight=None, imageWidth=None))
    np.testing.assert_array_equal(read("labelme", labelme).entries[0].load()[1], expected)


def test_wrong_cvat_tables_and_colours_are_named(cvat, tmp_path):
    (cvat / "labelmap.txt").write_text("background:0,0,0::\nfemur:250,0,0::\n")
    problems = write_folder_of_nothing(cvat, tmp_path, {"femur": "FL"})
    assert "belongs to no class" in problems
    (cvat / "labelmap.txt").write_text("femur=red\n")
    with pytest.raises(UserError, match="line 1: 'femur=red' is not"):
        read("cvat", cvat)
    (cvat / "labelmap.txt").unlink()
    with pytest.raises(UserError, match=r"labelmap\.txt: cannot be read"):
        read("cvat", cvat)


def write_folder_of_nothing(path, tmp_path, rename):
    with pytest.raises(UserError, match="nothing can be imported") as caught:
        write_folder(read("cvat", path, rename), tmp_path / "own")
    return str(caught.value)


def test_a_table_gives_pixel_sizes_and_subjects(labelme, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("file,mm_per_pixel,subject\n0.png,0.2,anna\n1.png,,bea\n9.png,1,x\n")
    plan = with_table(read("labelme", labelme), table)
    assert [entry.subject for entry in plan.entries] == ["anna", "bea", ""]
    assert plan.entries[0].spacing == 0.2
    assert any("row 9.png: has no image" in text for text in texts(plan))
    assert any("2.png: has no row in table.csv" in text for text in texts(plan))
    write_folder(plan, tmp_path / "own")
    assert Folder(tmp_path / "own").groups == ["anna", "bea", "2.png"]
    table.write_text("file,mm_per_pixel,subject\n0.png,-1,anna\n")
    with pytest.raises(UserError, match="pixel size '-1' is no positive number"):
        with_table(read("labelme", labelme), table)


def test_command_imports_and_refuses_a_used_folder(coco, tmp_path, capsys):
    command = ["data", "import", "coco", str(coco), "--rename", "head=FB", "femur=FL", "--out", str(tmp_path / "own")]
    assert main(command) == 0
    assert main(["data", "check", "data=folder", f"data.root={tmp_path / 'own'}", "data.fold=all"]) == 0
    assert main(command) == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "b"), "--images", str(tmp_path / "nowhere")]) == 2
    assert main(["data", "import", "labelme", "x", "--rename", "head", "--out", "y"]) == 2
    assert "give NAME=CLASS" in capsys.readouterr().err
