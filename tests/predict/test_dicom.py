import math

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid  # noqa: E402

from famseg.errors import UserError  # noqa: E402
from famseg.prediction.scans import read_scan  # noqa: E402

GREY = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
NAME = "Doe^Jane"


def region(delta=0.025, delta_y=None, kind=1, data=1, units=3):
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = kind, data
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta, delta_y or delta
    return item


@pytest.fixture
def write(tmp_path):
    """Write an ultrasound file as scanners do; keyword arguments set or (None) remove tags."""

    def write(pixels=GREY, name="scan.dcm", syntax=ExplicitVRLittleEndian, **tags):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", generate_uid()
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, "4711", "19900101"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
        dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
        dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
        dataset.PixelData = pixels.tobytes()
        for tag, value in tags.items():
            if value is None:
                delattr(dataset, tag)
            else:
                setattr(dataset, tag, value)
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


def read(path):
    return read_scan(path, lambda path: 0.5)


def test_grey_and_colour_pictures(write):
    np.testing.assert_array_equal(read(write()).image, GREY)
    np.testing.assert_array_equal(read(write(np.dstack([GREY] * 3))).image, GREY)
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    assert read(write(red)).image.max() == pytest.approx(0.299 * 200, abs=1)  # a red read as blue would be 23


def test_deep_and_inverted_pictures(write):
    np.testing.assert_array_equal(read(write(GREY.astype(np.uint16) * 16)).image, np.rint(GREY * (255 / GREY.max())))
    inverted = read(write(GREY, PhotometricInterpretation="MONOCHROME1")).image
    np.testing.assert_array_equal(inverted, GREY.max() - GREY)


def test_without_a_suffix_the_mark_tells(write):
    np.testing.assert_array_equal(read(write(name="IM_0001")).image, GREY)


def test_pixel_size_of_the_regions_goes_before_pixel_spacing(write):
    flow = region(0.5, data=2)
    path = write(SequenceOfUltrasoundRegions=[flow, region(0.025), region(0.025)], PixelSpacing=[1, 1])
    assert read(path).spacing == pytest.approx(0.25)
    assert read(write(PixelSpacing=[0.3, 0.3])).spacing == pytest.approx(0.3)
    assert read(write(SequenceOfUltrasoundRegions=[region(-0.02)])).spacing == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({}, "holds no pixel size"),
        ({"SequenceOfUltrasoundRegions": [region(units=4)]}, "holds no pixel size"),
        ({"SequenceOfUltrasoundRegions": [region(0.025), region(0.05)]}, "differ in scale"),
        ({"PixelSpacing": [0, 0]}, "no positive number"),
        ({"PixelSpacing": [12, 12]}, "(12 x 12 mm) is outside the 0.02 to 2 mm"),
    ],
)
def test_an_unclear_pixel_size_is_the_users_to_give_and_is_said(write, tags, note):
    scan = read(write(**tags))
    assert scan.spacing == 0.5
    assert any(note in said for said in scan.notes)


def test_pixels_that_are_not_square_have_no_size_whatever_is_given(write):
    """One number for the whole folder would give millimetres that are wrong in one direction at least."""
    for tags in ({"SequenceOfUltrasoundRegions": [region(0.025, 0.03)]}, {"PixelSpacing": [0.25, 0.3]}):
        scan = read(write(**tags))
        assert math.isnan(scan.spacing)
        assert any("not square" in said for said in scan.notes)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PixelData": None}, "holds no pixel data"),
        ({"PixelData": None, "Rows": None, "Columns": None}, "holds no picture"),
        ({"NumberOfFrames": 12}, "holds 12 frames"),
        ({"PixelData": GREY.tobytes()[:100]}, "cannot be decoded"),
        ({"Rows": 24}, "its pixels do not fit"),  # two frames of which the header knows one
        ({"Rows": 10_000, "Columns": 10_000}, "too large"),
        ({"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3}, "cannot be decoded"),
    ],
)
def test_files_that_cannot_be_used_are_named_without_their_owner(write, tags, words):
    with pytest.raises(UserError, match=words) as raised:
        read(write(**tags))
    assert "scan.dcm" in str(raised.value)
    assert "Doe" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"not dicom", b"\0" * 128 + b"DICM" + b"\xff" * 40])
def test_files_that_are_no_dicom(tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.dcm: "):
        read(tmp_path / "a.dcm")


def test_truncated_file(write):
    path = write()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"scan\.dcm: "):
        read(path)


def test_jpeg_compressed_pictures_are_read(write):
    cv2 = pytest.importorskip("cv2")
    smooth = cv2.GaussianBlur(GREY, (0, 0), 3)
    data = pydicom.encaps.encapsulate([cv2.imencode(".jpg", smooth)[1].tobytes()])
    path = write(smooth, syntax=JPEGBaseline8Bit, PixelData=data)
    assert np.abs(read(path).image.astype(int) - smooth).mean() < 3


def test_burnt_in_text_is_said_and_nothing_personal_is_read(write):
    scan = read(write(BurnedInAnnotation="YES"))
    assert any("may show a name" in note for note in scan.notes)
    assert "Doe" not in repr(scan)
    assert math.isfinite(scan.spacing)
