"""One frame and its pixel size from a DICOM file, and nothing that tells whose it is."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from famseg.data.images import as_grey, check_size
from famseg.data.source import Pixels
from famseg.data.tables import implausible
from famseg.errors import UserError

try:
    import pydicom
    from pydicom import config
    from pydicom.pixels.processing import apply_color_lut
except ImportError as error:
    raise UserError("DICOM files need pydicom. Install it: pip install 'famseg[dicom]'") from error

# All that is ever read of a file: no name, no date, no identifier.
_TAGS = [
    "BitsAllocated",
    "BitsStored",
    "BluePaletteColorLookupTableData",
    "BluePaletteColorLookupTableDescriptor",
    "BurnedInAnnotation",
    "Columns",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "GreenPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableDescriptor",
    "HighBit",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelData",
    "PixelRepresentation",
    "PixelSpacing",
    "PlanarConfiguration",
    "RedPaletteColorLookupTableData",
    "RedPaletteColorLookupTableDescriptor",
    "Rows",
    "SamplesPerPixel",
    "SequenceOfUltrasoundRegions",
]
_TISSUE_2D, _CENTIMETRES = (1, 1), (3, 3)  # DICOM PS3.3, C.8.5.5
_SQUARE = 0.01  # pixels count as square up to this relative difference of their sides
_NOT_SQUARE = "pixels are not square"

config.settings.reading_validation_mode = config.IGNORE  # its warnings quote the values of tags
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def _unknown(path: Path) -> float:
    return math.nan


def read_dicom(path: Path, given: Callable[[Path], float] = _unknown) -> tuple[Pixels, float, tuple[str, ...]]:
    """Read the only frame of a DICOM file.

    The pixel size is that of the ultrasound regions' calibration, or else PixelSpacing, or else what the user gives;
    pixels that are not square have none, whatever is given.

    Args:
        path: the file.
        given: mm per pixel of a file that does not know it itself; NaN when unknown.

    Returns:
        uint8 (h, w), mm per pixel (NaN when unclear), and what was converted or is to be known.

    Raises:
        UserError: the file is damaged, holds no picture, several frames or too many pixels, or its compression is not
            supported.
    """
    header = read_tags(path, _TAGS)
    if not header.get("Rows") or not header.get("Columns"):
        raise UserError(f"{path}: holds no picture. Give DICOM files of ultrasound images.")
    check_size(path, int(header.Columns), int(header.Rows))
    if (frames := int(header.get("NumberOfFrames") or 1)) > 1:
        raise UserError(f"{path}: holds {frames} frames. Export the one to be measured as a file of its own.")
    image, converted = as_grey(path, _pixels(path))
    spacing, unclear = pixel_size(header)
    if math.isnan(spacing) and _NOT_SQUARE not in unclear:
        spacing = given(path)
    notes = [converted, unclear]
    if header.get("BurnedInAnnotation") == "YES":
        notes.append("the picture may show a name: the file says that text is burnt into it")
    return image, spacing, tuple(note for note in notes if note)


def pixel_size(header: Any) -> tuple[float, str]:
    """Millimetres per pixel of a DICOM header (NaN when unclear), and why it is unclear."""
    sizes = [
        (abs(float(region.PhysicalDeltaX)) * 10, abs(float(region.PhysicalDeltaY)) * 10)
        for region in header.get("SequenceOfUltrasoundRegions") or []
        if _is_calibrated_tissue(region)
    ]
    if not sizes and header.get("PixelSpacing"):
        sizes = [(float(header.PixelSpacing[1]), float(header.PixelSpacing[0]))]
    if not sizes:
        return math.nan, "the file holds no pixel size"
    x, y = sizes[0]
    if not (0 < x < math.inf and 0 < y < math.inf):
        return math.nan, "the file's pixel size is no positive number"
    if odd := implausible(x) or implausible(y):
        return math.nan, f"the file's pixel size ({x:.3g} x {y:.3g} mm) {odd}"
    if any(not math.isclose(a, b, rel_tol=_SQUARE) for size in sizes for a, b in zip(size, (x, y), strict=True)):
        return math.nan, "the file's regions differ in scale: crop the one to be measured"
    if not math.isclose(x, y, rel_tol=_SQUARE):
        return math.nan, f"{_NOT_SQUARE} ({x:.3g} x {y:.3g} mm): resample the picture"
    return (x + y) / 2, ""


def _is_calibrated_tissue(region: Any) -> bool:
    kind = region.get("RegionSpatialFormat"), region.get("RegionDataType")
    units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
    return kind == _TISSUE_2D and units == _CENTIMETRES and "PhysicalDeltaX" in region and "PhysicalDeltaY" in region


def read_tags(path: Path, tags: Sequence[str], pixels: bool = False) -> Any:
    """These tags of a DICOM file, those that it has.

    Raises:
        UserError: it cannot be read, or is no DICOM file.
    """
    try:
        return pydicom.dcmread(path, specific_tags=list(tags), stop_before_pixels=not pixels)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None
    except Exception as error:  # pydicom raises many types for damaged files; their texts may quote tags
        raise UserError(f"{path}: is no readable DICOM file ({type(error).__name__}). Export it again.") from None


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.generic]]:
    """Grey (h, w), or blue, green, red (h, w, 3) as OpenCV orders them."""
    dataset = read_tags(path, _TAGS, pixels=True)
    if "PixelData" not in dataset:
        raise UserError(f"{path}: holds no pixel data. Give DICOM files of ultrasound images.")
    try:
        values = dataset.pixel_array
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)
    except Exception as error:  # as above
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        raise UserError(
            f"{path}: its pixels cannot be decoded ({type(error).__name__}; {syntax}). "
            "Export it again, uncompressed, or as PNG."
        ) from None
    if values.shape[:2] != (dataset.Rows, dataset.Columns):  # pydicom gives frames that the header does not count
        raise UserError(f"{path}: its pixels do not fit {dataset.Columns}x{dataset.Rows} px. Export it again.")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = values.max() - values  # bright means dark there
    return np.asarray(values[..., ::-1] if values.ndim == 3 else values)
