import json
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from famseg.cli import main
from famseg.data.concat import datamodule as concat
from famseg.data.convert.nnunet import export_nnunet, read_nnunet
from famseg.data.convert.plan import write_folder
from famseg.data.folder import Folder, datamodule
from famseg.data.hc18 import datamodule as hc18
from famseg.data.phantom import Phantom
from famseg.errors import UserError

PYTHON = os.environ.get("FAMSEG_NNUNET_PYTHON")  # a Python that has nnunetv2, which needs many packages


@pytest.fixture
def exported(folder_root, tmp_path):
    return export_nnunet(datamodule(folder_root, folds=3), tmp_path / "Dataset001_OWN")


def test_layout_is_that_of_nnunet(exported, folder_root):
    data = datamodule(folder_root, folds=3)
    names = {folder: sorted(path.name for path in (exported / folder).iterdir()) for folder in ("imagesTr", "labelsTr")}
    train = sorted(data.splits["train"] + data.splits["val"])
    assert names == {"imagesTr": [name.replace(".png", "_0000.png") for name in train], "labelsTr": train}
    assert len(list((exported / "imagesTs").iterdir())) == len(data.splits["test"]) == 2
    description = json.loads((exported / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "FL": 1, "FB": 2}
    assert (description["numTraining"], description["file_ending"]) == (4, ".png")
    (split,) = json.loads((exported / "splits_final.json").read_text())
    assert split == {part: [name[:-4] for name in data.splits[part]] for part in ("train", "val")}


def test_import_export_import_changes_no_pixel(exported, folder_root, tmp_path):
    write_folder(read_nnunet(exported), tmp_path / "again")
    before, after = Folder(folder_root), Folder(tmp_path / "again")
    assert (after.names, after.groups, after.classes) == (before.names, before.groups, before.classes)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.image, other.image)
        assert one.spacing == other.spacing
    again = datamodule(tmp_path / "again", split_file=tmp_path / "again" / "split.csv")
    assert again.splits == datamodule(folder_root, folds=3).splits


@pytest.mark.parametrize("name", ["coco", "labelme", "cvat"])
def test_other_formats_survive_the_round_trip_too(name, request, tmp_path):
    source = request.getfixturevalue(name)
    assert main(["data", "import", name, str(source), "--out", str(tmp_path / "own")]) == 0
    export_nnunet(datamodule(tmp_path / "own", folds=3), tmp_path / "nn")
    write_folder(read_nnunet(tmp_path / "nn"), tmp_path / "again")
    for one, other in zip(Folder(tmp_path / "own"), Folder(tmp_path / "again"), strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


def test_ids_with_a_gap_become_consecutive_and_come_back(hc18_root, tmp_path):
    data = hc18(hc18_root, folds=3)
    export_nnunet(data, tmp_path / "nn")
    assert json.loads((tmp_path / "nn/dataset.json").read_text())["labels"] == {"background": 0, "FB": 1}
    write_folder(read_nnunet(tmp_path / "nn"), tmp_path / "again")
    for sample in Folder(tmp_path / "again"):
        np.testing.assert_array_equal(sample.mask, data.source[data.source.names.index(sample.name)].mask)


def test_what_nnunet_cannot_say_is_refused(toy, tmp_path, folder_root):
    class HeadsOnly(toy):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), known=frozenset({"BG", "FB"}))

    data = concat({"heads": HeadsOnly(6), "femurs": Phantom(6, (40, 60), planes={"femur": 1.0})}, folds=3)
    with pytest.raises(UserError, match=r"heads/\d+\.png: does not know FL, and nnU-Net would take it for background"):
        export_nnunet(data, tmp_path / "nn")
    with pytest.raises(UserError, match="no training"):
        export_nnunet(datamodule(folder_root, fold="all"), tmp_path / "all")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": {"FL": 1}}, "the labels have no background with id 0"),
        ({"labels": {"background": 0, "FL": "1"}}, "label 'FL' is '1', not a number"),
        ({"labels": {"background": 0, "FL": [1, 2]}}, r"label 'FL' is \[1, 2\], not a number"),
        ({"labels": {"background": 0, "FL": 1, "FB": 1}}, "two labels have one id"),
        ({"channel_names": {"0": "a", "1": "b"}}, "has 2 channels"),
        ({"file_ending": ".nii.gz"}, "is not of 2-D images"),
    ],
)
def test_wrong_descriptions_are_named(exported, edit, change, says):
    edit(exported / "dataset.json", lambda content: content.update(change))
    with pytest.raises(UserError, match=rf"dataset\.json: .*{says}"):
        read_nnunet(exported)


def test_wrong_ids_missing_labels_and_wrong_counts_are_named(exported, edit, tmp_path):
    edit(exported / "dataset.json", lambda content: content.update(labels={"background": 0, "FL": 1}))
    with pytest.raises(UserError, match=r"label ids \[2\] belong to no class"):
        write_folder(read_nnunet(exported), tmp_path / "again")
    min((exported / "labelsTr").iterdir()).unlink()
    problems = [str(problem) for problem in read_nnunet(exported).problems]
    assert any("has no label" in problem for problem in problems)
    assert any("numTraining is 4, but imagesTr and labelsTr hold 3 pairs" in problem for problem in problems)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("splits_final.json", "{}", "is no list of splits"),
        ("splits_final.json", "[", "is no list of splits"),
        ("spacing.csv", "file,mm_per_pixel,subject\na.png,wide,1\n", "pixel size 'wide' is no positive number"),
    ],
)
def test_damaged_tables_beside_the_images_are_named(exported, name, text, says):
    (exported / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}.*{says}"):
        read_nnunet(exported)


def test_command_exports(folder_root, tmp_path, capsys):
    options = ["data=folder", f"data.root={folder_root}", "data.folds=3", "--format", "nnunet"]
    assert main(["data", "export", *options, "--out", str(tmp_path / "nn")]) == 0
    assert "splits_final.json" in capsys.readouterr().out
    assert main(["data", "export", *options, "--out", str(tmp_path / "nn")]) == 2


CHECK = (
    "import sys; from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity as verify"
)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="FAMSEG_NNUNET_PYTHON names no Python with nnunetv2")
@pytest.mark.parametrize("wrong", [False, True])
def test_nnunet_accepts_the_export(hc18_root, tmp_path, edit, wrong):
    folder = export_nnunet(hc18(hc18_root, folds=3), tmp_path / "Dataset018_HC18")
    if wrong:
        edit(folder / "dataset.json", lambda content: content.update(labels={"background": 0}))
    code = f"{CHECK}\nif __name__ == '__main__': verify(sys.argv[1], 1)"
    (tmp_path / "check.py").write_text(code)
    done = subprocess.run([PYTHON, str(tmp_path / "check.py"), str(folder)], capture_output=True, text=True)
    assert (done.returncode == 0) != wrong, done.stderr[-2000:]
