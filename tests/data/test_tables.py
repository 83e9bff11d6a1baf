import math
import unicodedata
from pathlib import Path

import pytest

from famseg.data.tables import implausible, match_rows, read_rows
from famseg.errors import UserError


def test_rows_with_byte_order_mark_and_absent_cells(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbffile,group\na.png,1\nb.png\n")
    rows = read_rows(tmp_path / "a.csv", ["file"], "Mend.")
    assert rows == [{"file": "a.png", "group": "1"}, {"file": "b.png", "group": ""}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no column 'file'"),
        (b"name\na\n", "has no column 'file'"),
        (b"file;mm\na.png;0,1\n", "separates columns by semicolons. Separate them by commas"),
        (b"file\n\xff\xfe", "is no CSV file in UTF-8 .* Save it as such"),
    ],
)
def test_foreign_files_are_named(tmp_path, content, says):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.csv: {says}.* Mend\."):
        read_rows(tmp_path / "a.csv", ["file"], "Mend.")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.csv: cannot be read \(No such file"):
        read_rows(tmp_path / "a.csv", [], "Mend.")


def test_rows_of_empty_cells_are_none(tmp_path):
    (tmp_path / "a.csv").write_text("file,mm\na.png,1\n,\n,\n")
    assert read_rows(tmp_path / "a.csv", ["file"], "Mend.") == [{"file": "a.png", "mm": "1"}]


@pytest.mark.parametrize("mm", [0.02, 0.049414942, 0.3932801, 2, math.nan])
def test_pixel_sizes_of_ultrasound_images(mm):
    assert implausible(mm) == ""


@pytest.mark.parametrize("mm", [12, 1e9, 0.019, 1e-9])
def test_pixel_sizes_that_no_ultrasound_image_has(mm):
    assert implausible(mm) == "is outside the 0.02 to 2 mm of ultrasound images"


def matched(names, files):
    found = match_rows(Path("t.csv"), names, [Path(file) for file in files])
    return {str(file): names[row] for file, row in found.items()}


def test_more_of_the_path_wins():
    files = ["w/a/IM1.png", "w/b/IM1.png", "w/b/IM2.png", "w/c/IM3.png"]
    assert matched(["a/IM1.png", "b/IM1.png"], files) == {files[0]: "a/IM1.png", files[1]: "b/IM1.png"}
    assert matched(["IM1.png", "b/IM1.png"], files) == {files[0]: "IM1.png", files[1]: "b/IM1.png"}
    assert matched(["IM3.png", "./w/c/IM3.png", "IM9.png", "M2.png"], files) == {files[3]: "./w/c/IM3.png"}


def test_rows_may_hold_more_of_the_path_than_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (f"{tmp_path.name}/a.png", str(tmp_path / "a.png"), f"{tmp_path.name}\\a.png"):
        assert matched([name], ["a.png"]) == {"a.png": name}


def test_a_name_without_suffix_is_that_of_the_only_file_with_it():
    assert matched(["IM1", "b/IM2"], ["a/IM1.png", "b/IM2.tif"]) == {"a/IM1.png": "IM1", "b/IM2.tif": "b/IM2"}
    assert matched(["IM1", "IM1.png"], ["IM1.png", "IM1.tif"]) == {"IM1.png": "IM1.png", "IM1.tif": "IM1"}
    with pytest.raises(UserError, match=r"row IM1: fits both IM1\.png and IM1\.tif\. .* as in IM1\.png\."):
        matched(["IM1"], ["IM1.png", "IM1.tif"])


def test_a_name_of_several_files_is_refused_with_both_and_the_mend():
    says = (
        r"^t\.csv, row IM1\.png: fits both w/a/IM1\.png and w/b/IM1\.png\. Give more of the path, as in a/IM1\.png\.$"
    )
    with pytest.raises(UserError, match=says):
        matched(["IM1.png"], ["w/a/IM1.png", "w/b/IM1.png"])


def test_one_file_by_two_ways_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = ["a.png", str(tmp_path / "a.png"), "b/../a.png"]
    assert matched(["a.png"], files) == dict.fromkeys(files, "a.png")


@pytest.mark.parametrize("names", [["a.png", "a.png"], ["a.png", "./a.png"], ["w/a.png", "w\\a.png"]])
def test_a_name_may_not_be_listed_twice(names):
    with pytest.raises(UserError, match=r"^t\.csv: .* is listed twice\. Remove one"):
        matched(names, [])


def test_umlauts_are_the_same_however_a_computer_writes_them():
    composed, apart = (unicodedata.normalize(form, "Müller.png") for form in ("NFC", "NFD"))
    for row, file in ((composed, apart), (apart, composed)):
        assert match_rows(Path("t.csv"), [row], [Path(file)]) == {Path(file): 0}
