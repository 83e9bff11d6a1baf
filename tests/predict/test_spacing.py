import math

import pytest

from famseg.errors import UserError
from famseg.prediction.spacing import spacings


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "t.csv").write_text(text)
        return str(tmp_path / "t.csv")

    return write


def test_one_size_for_all_or_none(tmp_path):
    assert spacings("0.25", [])[0](tmp_path / "a.png") == spacings("0,25", [])[0](tmp_path / "a.png") == 0.25
    assert math.isnan(spacings(None, [])[0](tmp_path / "a.png"))


@pytest.mark.parametrize("header", ["file,mm_per_pixel,subject", "filename,pixel size(mm),hc"])
def test_sizes_of_a_table(write, tmp_path, header):
    files = [tmp_path / name for name in ("deep/a.png", "b.png", "c.png")]
    of, warnings = spacings(write(f"{header}\na.png,0.5,x\nb.png,,x\n"), files)
    assert of(files[0]) == 0.5
    assert math.isnan(of(files[1]))
    assert math.isnan(of(files[2]))
    assert len(warnings) == 1


def test_two_patients_with_files_of_one_name(write, tmp_path):
    files = [tmp_path / "a" / "IM1.png", tmp_path / "b" / "IM1.png"]
    of, warnings = spacings(write("file,mm_per_pixel\na/IM1.png,0.07\nb/IM1,0.2\n"), files)
    assert ([of(file) for file in files], warnings) == ([0.07, 0.2], [])
    for rows in ("IM1.png,0.07\n", "IM1.png,0.07\nIM1.png,0.2\n"):
        with pytest.raises(UserError, match=r"fits both|listed twice"):
            spacings(write("file,mm_per_pixel\n" + rows), files)


def test_rows_without_image_and_images_without_row_are_named(write, tmp_path):
    files = [tmp_path / name for name in ("IM1.png", "IM2.png", "knows_itself.dcm")]
    _, warnings = spacings(write("file,mm_per_pixel\nIM1.png,0.2\nIM_2.png,0.2\n"), files)
    unused, lacking = warnings
    assert "t.csv: no image for IM_2.png. Check the names." in unused
    assert f"no pixel size for {files[1]}: measured in pixels" in lacking


def test_of_many_names_a_few_are_said(write, tmp_path):
    rows = "".join(f"{number}.png,0.2\n" for number in range(99))
    (unused,) = spacings(write("file,mm_per_pixel\n" + rows), [tmp_path / "98.png"])[1]
    assert "0.png, 1.png, 2.png, 3.png, 4.png and 93 more" in unused


@pytest.mark.parametrize("option", ["0", "-1", "nan", "inf", "12", "1e9", "no_such.csv"])
def test_spacing_that_is_none(option):
    with pytest.raises(UserError, match=option):
        spacings(option, [])


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", *(f"file,mm_per_pixel\nx.png,{size}\n" for size in ("0", "wide", "12"))],
)
def test_spacing_tables_that_are_none(write, text):
    with pytest.raises(UserError, match=r"t\.csv"):
        spacings(write(text), [])
