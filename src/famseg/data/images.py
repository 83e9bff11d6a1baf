"""Files to pixels: one 8-bit channel for images, class ids for labels."""

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from famseg.data.source import Pixels
from famseg.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
DICOM_SUFFIXES = {".dcm", ".dicom"}
MIN_SIDE = 32  # the network halves five times
MAX_PIXELS = 6000 * 6000
"""Larger pictures are refused before they are decoded: a few bytes can claim to be gigabytes of pixels."""

# What Pillow warns of, large or damaged pictures, is refused here or by the decoder, by name.
warnings.filterwarnings("ignore", module=r"PIL\.")

# A bad file gets our message with its name; OpenCV's own lines beside it name none.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_image(path: Path) -> tuple[Pixels, str]:
    """Read an image as one 8-bit channel.

    Returns:
        uint8 (H, W), and in words what was converted ("" when the file is one 8-bit channel already).

    Raises:
        UserError: The file is missing, unreadable, truncated, too large, smaller than 32 px, or holds several pictures
            or values that are not finite.
    """
    data = _read(path)
    _check_header(path, data)
    return as_grey(path, _decode(path, data))


def as_grey(path: Path, pixels: NDArray[np.generic]) -> tuple[Pixels, str]:
    """Decoded pixels (H, W) or (H, W, channels: blue, green, red, alpha) of any type as one 8-bit channel.

    Returns:
        uint8 (H, W), and in words what was converted.

    Raises:
        UserError: The image is smaller than 32 px or holds no finite values; `path` is named.
    """
    notes = []
    if pixels.ndim == 3:
        pixels = _one_channel(pixels)
        notes.append("colour image converted to grey")
    if pixels.dtype != np.uint8:
        notes.append(f"{pixels.dtype} image scaled to 8 bits, its brightest pixel to 255")
    image = _to_uint8(path, pixels)
    if min(image.shape) < MIN_SIDE:
        height, width = image.shape
        raise UserError(f"{path}: {width}x{height} px is too small. Images need at least {MIN_SIDE} px a side.")
    return image, "; ".join(notes)


def read_label(path: Path, classes: Mapping[str, int], colours: Mapping[str, tuple[int, int, int]]) -> Pixels:
    """Read a label image of class ids, or of one RGB colour per class.

    Args:
        path: PNG with one channel of ids, or with the colours.
        classes: Name -> id.
        colours: Name -> (red, green, blue), for the classes that have one.

    Returns:
        uint8 (H, W) of ids in `classes`.

    Raises:
        UserError: The file is missing or unreadable, or has ids or colours that no class has.
    """
    pixels = _decode(path, _read(path))
    if pixels.ndim == 3 and (pixels[..., :3] == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # ids written into three equal channels
    if pixels.ndim == 3:
        return _ids_from_colours(path, pixels[..., 2::-1], classes, colours)
    found = set(np.unique(pixels).tolist())
    if unknown := sorted(found - set(classes.values())):
        some = f"{unknown}" if len(unknown) <= 5 else f"{unknown[0]} to {unknown[-1]} ({len(unknown)} of them)"
        known = ", ".join(f"{number} {name}" for name, number in classes.items())
        mend = "Mend the label, or name its ids, background first: 'data.ids={BG: 0, FB: 255}'."
        if len(unknown) > 5:
            mend = "Borders are smoothed, or were a JPEG: export it as a PNG of whole ids, without smoothing."
        raise UserError(f"{path}: label ids {some} belong to no class. Known ids: {known}. {mend}")
    return pixels.astype(np.uint8)


def picture_size(path: Path) -> tuple[float, float]:
    """Width and height that a header claims; endless when it claims none, so that decoding says what is wrong."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception:  # Pillow raises many types for damaged headers
        return math.inf, math.inf


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its name, or by the mark behind its preamble."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    if path.suffix.lower() in SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse a picture whose header claims too many pixels.

    Raises:
        UserError: more than MAX_PIXELS.
    """
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        raise UserError(f"{path}: {width}x{height} px is too large, the limit is {limit} million. Crop or shrink it.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None


def _check_header(path: Path, data: bytes) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF", "BMP")) as picture:
            (width, height), pages = picture.size, getattr(picture, "n_frames", 1)
    except Image.DecompressionBombError:
        raise UserError(f"{path}: is far too large to be an ultrasound image. Crop or shrink it.") from None
    except Exception:  # Pillow raises many types for damaged headers; the decoder says what is wrong
        return
    check_size(path, width, height)
    if pages > 1:
        raise UserError(f"{path}: holds {pages} pictures. Export the one that is meant as a file of its own.")


def _decode(path: Path, data: bytes) -> NDArray[np.generic]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None:
        raise UserError(f"{path}: is no readable image (truncated, or of another format). Copy or export it again.")
    return pixels


def _one_channel(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    colour = pixels[..., :3]  # drops alpha
    if colour.shape[2] < 3 or (colour == colour[..., :1]).all():
        return colour[..., 0]
    if colour.dtype not in (np.uint8, np.uint16, np.float32):  # all that OpenCV mixes
        colour = colour.astype(np.float32)
    grey: NDArray[np.generic] = cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_BGR2GRAY)
    return grey


def _to_uint8(path: Path, pixels: NDArray[np.generic]) -> Pixels:
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: holds values that are not numbers. Export it again, as 8-bit PNG if possible.")
    values -= min(values.min(), 0.0)
    scaled: Pixels = np.rint(values * (255.0 / max(values.max(), 1e-12))).astype(np.uint8)
    return scaled


def _ids_from_colours(
    path: Path, rgb: NDArray[np.generic], classes: Mapping[str, int], colours: Mapping[str, tuple[int, int, int]]
) -> Pixels:
    codes = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    ids = np.zeros(codes.shape, np.uint8)
    known = np.zeros(codes.shape, bool)
    for name, (red, green, blue) in colours.items():
        here = codes == (red << 16 | green << 8 | blue)
        ids[here] = classes[name]
        known |= here
    if not known.all():
        y, x = np.argwhere(~known)[0]
        wanted = ", ".join(f"{name} {tuple(colour)}" for name, colour in colours.items())
        raise UserError(
            f"{path}: colour {tuple(rgb[y, x].tolist())} (red, green, blue) at x={x}, y={y} belongs to no class. "
            f"Known colours: {wanted}. Name others, 'data.colours={{BG: [0, 0, 0], FB: [0, 128, 0]}}'; smoothed "
            "or JPEG borders must be removed."
        )
    return ids
