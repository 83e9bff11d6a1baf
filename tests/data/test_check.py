import cv2
import numpy as np
import pytest

from famseg.cli import main
from famseg.data.check import check, check_report
from famseg.data.folder import Folder
from famseg.data.hc18 import HC18, datamodule


def test_a_sound_set(hc18_root):
    text, code = check_report(datamodule(hc18_root, folds=3))
    assert code == 0
    assert text.splitlines() == [
        "6 images of 5 examinations or subjects, classes 0 BG, 2 FB.",
        "train 2, val 2, test 2 images.",
        "Errors: 0. Warnings: 0.",
    ]


def test_errors_come_first_and_name_file_and_mend(folder_root):
    cv2.imwrite(str(folder_root / "images/0.png"), np.full((40, 56), 1000, np.uint16))
    cv2.imwrite(str(folder_root / "labels/5.png"), np.full((40, 56), 9, np.uint8))
    text, code = check_report(Folder(folder_root))
    error, warning, *_, count = text.splitlines()
    assert code == 1
    assert error.startswith(f"error    {folder_root}/labels/5.png: label ids [9] belong to no class. Known ids: 0 BG")
    assert warning.startswith(f"warning  {folder_root}/images/0.png: uint16 image scaled to 8 bits")
    assert count == "Errors: 1. Warnings: 2."  # also that bit depths are mixed


def test_warnings_alone_are_no_failure(folder_root):
    (folder_root / "spacing.csv").unlink()
    assert check_report(Folder(folder_root))[1] == 0


def test_a_missing_label_does_not_hide_that_its_image_is_damaged(folder_root):
    (folder_root / "labels/0.png").unlink()
    (folder_root / "images/0.png").write_bytes(b"no image")
    missing, damaged = check(Folder(folder_root))
    assert missing.file.endswith("labels/0.png")
    assert damaged.file.endswith("images/0.png")


def test_a_missing_file_does_not_hide_the_others(hc18_root):
    (hc18_root / "training_set/000_HC.png").unlink()
    path = hc18_root / "training_set/000_HC_Annotation.png"
    path.write_bytes(path.read_bytes()[:100])
    missing, truncated = check(HC18(hc18_root))
    assert missing.file.endswith("000_HC.png")
    assert truncated.file.endswith("000_HC_Annotation.png")
    assert "truncated" in truncated.what


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data=folder"], "famseg: data.root has no value. Give it: data.root=...\n"),
        (["scans"], "famseg: scans: give KEY=VALUE as for train.py, such as data=folder data.root=scans.\n"),
    ],
)
def test_a_command_without_a_folder_says_how_to_give_it(capsys, arguments, words):
    assert main(["data", "check", *arguments]) == 2
    assert capsys.readouterr().err == words


def test_missing_labels_come_before_a_split_that_cannot_be_made(folder_root, capsys):
    """As after the import of a few DICOM files, which have none."""
    for path in (folder_root / "labels").iterdir():
        path.unlink()
    assert main(["data", "check", "data=folder", f"data.root={folder_root}", "data.folds=9"]) == 2
    output, error = capsys.readouterr()
    assert output.startswith(f"error    {folder_root}/labels/0.png: is missing. Add the label of 0.png")
    assert "Errors: 6." in output
    assert "too few for data.folds=9" in error


def test_what_is_wrong_with_the_set_itself_is_said_once(tmp_path, capsys):
    assert main(["data", "check", "data=folder", f"data.root={tmp_path}"]) == 2
    output, error = capsys.readouterr()
    assert (output, error.count("this folder is missing")) == ("", 1)
