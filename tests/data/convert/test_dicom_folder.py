import cv2
import numpy as np
import pytest

from famseg.data.convert.dicom_folder import read_dicom_folder
from famseg.data.convert.plan import with_table, write_folder
from famseg.data.convert.screen_text import blank_screen
from famseg.data.folder import Folder
from famseg.errors import UserError

pydicom = pytest.importorskip("pydicom")

SHAPE = (240, 320)
NAME = "DOE JANE 1990"


def sector():
    """A fan of speckle on a black screen."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius, angle = np.hypot(x - 160, y + 40), np.arctan2(x - 160, y + 40)
    fan = (radius > 70) & (radius < 265) & (np.abs(angle) < 0.6)
    speckle = np.random.default_rng(0).rayleigh(45, SHAPE)
    return np.where(fan, np.clip(speckle, 14, 255), 0).astype(np.uint8), fan


def screen(text=NAME, at=(6, 22)):
    image, fan = sector()
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.35, 230, 1, cv2.LINE_AA)
    return image, fan


def write(path, pixels, patient="P1", birth="19900101", regions=(), spacing=True):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", pydicom.uid.generate_uid()
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = patient, NAME.replace(" ", "^"), birth
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PixelData = pixels.tobytes()
    dataset.SequenceOfUltrasoundRegions = [region(box, spacing) for box in regions]
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def region(box, spacing):
    item = pydicom.Dataset()
    item.RegionSpatialFormat = item.RegionDataType = 1
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box
    if spacing:
        item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
        item.PhysicalDeltaX = item.PhysicalDeltaY = 0.02
    return item


@pytest.mark.parametrize("at", [(6, 22), (6, 232), (228, 236)])
def test_writing_beside_the_fan_is_blanked_and_the_fan_is_not(at):
    image, fan = screen(at=at)
    blanked, boxes = blank_screen(image)
    clean = sector()[0]
    np.testing.assert_array_equal(blanked[fan], image[fan])
    assert boxes
    assert ((blanked != clean) & ~fan).sum() < 0.02 * ((image != clean) & ~fan).sum()


def test_a_fan_split_by_a_shadow_stays_whole():
    image, fan = screen()
    image[:, 140:180] = 0
    blanked, _ = blank_screen(image)
    np.testing.assert_array_equal(blanked[fan], image[fan])


def test_nothing_is_blanked_on_a_clean_screen():
    image, _ = sector()
    blanked, boxes = blank_screen(image)
    np.testing.assert_array_equal(blanked, image)
    assert boxes == []
    assert blank_screen(np.zeros(SHAPE, np.uint8))[1] == []


def test_what_lies_outside_of_the_files_regions_is_blanked():
    image, _ = sector()
    image[200:235, 5:315] = 90  # a bar of a user interface, as large as a part of the picture
    blanked, boxes = blank_screen(image, [(0, 0, 320, 200)])
    assert not blanked[200:].any()
    np.testing.assert_array_equal(blanked[:200], image[:200])
    assert boxes


def test_folder_keeps_pictures_pixel_sizes_and_subjects_and_no_name(tmp_path):
    source = tmp_path / "in" / NAME.replace(" ", "_")
    for number, patient in enumerate(("JANE-1", "MARY-2", "JANE-1")):
        write(source / f"{NAME} {number}.dcm", screen()[0], patient, regions=[(0, 0, 319, 239)])
    problems = write_folder(read_dicom_folder(tmp_path / "in"), tmp_path / "own")
    assert all("were blanked in image_000" in problem.what for problem in problems)
    assert sorted(path.name for path in (tmp_path / "own/images").iterdir()) == [f"image_000{i}.png" for i in (1, 2, 3)]
    table = (tmp_path / "own/spacing.csv").read_text().splitlines()
    assert table[1:] == [
        "image_0001.png,0.2,subject_001",
        "image_0002.png,0.2,subject_002",
        "image_0003.png,0.2,subject_001",
    ]
    content = b"".join(path.read_bytes() for path in (tmp_path / "own").rglob("*") if path.is_file())
    assert not any(word in content for word in (b"DOE", b"JANE", b"MARY", b"1990"))
    assert (tmp_path / "own/labels").is_dir()  # to be drawn into
    assert Folder(tmp_path / "own").groups == ["subject_001", "subject_002", "subject_001"]


def test_without_pixel_size_or_patient_or_with_two_birth_dates_it_is_said(tmp_path):
    write(tmp_path / "in/a.dcm", sector()[0], "1")
    write(tmp_path / "in/b.dcm", sector()[0], "1", birth="19910101")
    write(tmp_path / "in/c.dcm", sector()[0], "", regions=[(0, 0, 319, 239)])
    (tmp_path / "in/d.dcm").write_bytes(b"no dicom")
    plan = read_dicom_folder(tmp_path / "in")
    said = "\n".join(map(str, plan.problems))
    assert "a.dcm: the file holds no pixel size (image_0001.png). Give it in a table: --table FILE." in said
    assert "b.dcm: has the patient identifier of" in said
    assert "two subjects may bear one name" in said
    assert "c.dcm: has no patient identifier" in said
    assert [problem.fatal for problem in plan.problems if "d.dcm" in problem.file] == [True]
    assert "1990" not in said


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"PixelSpacing": [0.1, 0.2]}, "resample the picture (image_0001.png). No single pixel size fits it as it is."),
        ({"PixelSpacing": [9, 9]}, "of ultrasound images (image_0001.png). Give it in a table: --table FILE."),
        ({"BurnedInAnnotation": "YES"}, "burnt into it (image_0001.png). Look at the picture before you share it."),
    ],
)
def test_every_note_has_its_own_mend(tmp_path, tags, says):
    write(tmp_path / "in/a.dcm", sector()[0], "1")
    dataset = pydicom.dcmread(tmp_path / "in/a.dcm")
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.save_as(tmp_path / "in/a.dcm")
    assert any(says in str(problem) for problem in read_dicom_folder(tmp_path / "in").problems)


def test_a_deep_picture_asks_for_no_pixel_size(tmp_path):
    write(tmp_path / "in/a.dcm", sector()[0].astype(np.uint16), "1", regions=[(0, 0, 319, 239)])
    (note,) = read_dicom_folder(tmp_path / "in").problems
    assert str(note).endswith("its brightest pixel to 255 (image_0001.png). Nothing to do if that is as meant.")


def test_a_table_mends_what_the_files_do_not_say(tmp_path):
    write(tmp_path / "in/a.dcm", sector()[0], "")
    (tmp_path / "t.csv").write_text("file,mm_per_pixel,subject\na.dcm,0.3,anna\n")
    (entry,) = with_table(read_dicom_folder(tmp_path / "in"), tmp_path / "t.csv").entries
    assert (entry.spacing, entry.subject) == (0.3, "anna")


def test_a_table_tells_files_of_one_name_apart(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / "in" / folder / "IM1.dcm", sector()[0], "")
    table = tmp_path / "t.csv"
    table.write_text("file,mm_per_pixel,subject\na/IM1.dcm,0.1,anna\nb/IM1,0.3,bea\n")
    entries = with_table(read_dicom_folder(tmp_path / "in"), table).entries
    assert {(entry.source.parent.name, entry.spacing, entry.subject) for entry in entries} == {
        ("a", 0.1, "anna"),
        ("b", 0.3, "bea"),
    }
    table.write_text("file,mm_per_pixel,subject\nIM1.dcm,0.1,anna\n")
    with pytest.raises(UserError, match=r"row IM1\.dcm: fits both .* as in a/IM1\.dcm"):
        with_table(read_dicom_folder(tmp_path / "in"), table)


def test_a_folder_without_dicom_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no DICOM file"):
        read_dicom_folder(tmp_path)
