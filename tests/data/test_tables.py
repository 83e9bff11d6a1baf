import pytest

from famseg.data.tables import read_rows
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
        (b"file;mm\na.png;0,1\n", "has no column 'file'. Separate columns by commas"),
        (b"file\n\xff\xfe", "is no CSV file in UTF-8"),
    ],
)
def test_foreign_files_are_named(tmp_path, content, says):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.csv: {says}.* Mend\."):
        read_rows(tmp_path / "a.csv", ["file"], "Mend.")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.csv: cannot be read \(No such file"):
        read_rows(tmp_path / "a.csv", [], "Mend.")
