"""Test images with every setting's prediction, and a zoom on the border: the paper's Fig. 4."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import cv2
import numpy as np
from hydra.errors import InstantiationException
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from famseg.checkpoint import load_predictor
from famseg.data.source import Sample, Source
from famseg.errors import UserError
from famseg.evaluation.evaluate import data_of_run
from famseg.overlays import TRUTH_COLOUR, Picture, colours, outline
from famseg.report.claims import per_image
from famseg.report.records import Record
from famseg.report.settings import Setting

COLUMNS = 12  # settings drawn at most
ZOOM = 4  # the zoom shows this part of the shorter side
_SIDE = 480  # px, of a drawn picture's longer side

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Examples:
    """Drawn images.

    Attributes:
        names: the images, a row each.
        columns: names of the settings, a column each.
        samples: the images with their truth.
        masks: for every image the predicted ids, setting by setting; None where a run has no such image.
        classes: name -> id.
    """

    names: Sequence[str]
    columns: Sequence[str]
    samples: Sequence[Sample]
    masks: Sequence[Sequence[Mask | None]]
    classes: Mapping[str, int]


def predict_examples(settings: Sequence[Setting], names: Mapping[int, str], remarks: list[str]) -> Examples | None:
    """Predict a few test images with the best checkpoint of every setting's first run that was tested on them.

    Args:
        settings: columns, at most `COLUMNS` of them.
        names: id of a setting -> its name.
        remarks: takes a sentence for everything that could not be drawn.

    Returns:
        The images; None if there are no checkpoints, or the data is gone.
    """
    shown = [setting for setting in settings if setting.records][:COLUMNS]
    chosen = choose_images(shown)
    drawn: list[tuple[str, dict[str, Mask]]] = []
    source: Source | None = None
    for setting in shown:
        masks: dict[str, Mask] = {}
        for record, tested in _testers(setting, chosen):
            folder = record.cell.folder
            try:
                predictor = load_predictor(folder)
                source = source or data_of_run(folder, predictor).source
            except (UserError, InstantiationException, OSError) as error:
                remarks.append(f"Example images, {names[id(setting)]}: {error.__cause__ or error}")
                continue
            masks |= {sample.name: predictor.mask(sample.image) for sample in _samples(source, tested)}
        drawn += [(names[id(setting)], masks)] if masks else []
    if len([s for s in settings if s.records]) > COLUMNS:
        remarks.append(f"Example images: the first {COLUMNS} settings are shown.")
    if not chosen:
        remarks.append("Example images: there is no image on which all settings were tested.")
    if source is None or not chosen:
        return None
    samples = _samples(source, chosen)
    by_image = [[masks.get(sample.name) for _, masks in drawn] for sample in samples]
    return Examples([s.name for s in samples], [name for name, _ in drawn], samples, by_image, source.classes)


def _testers(setting: Setting, images: Sequence[str]) -> list[tuple[Record, list[str]]]:
    """The first run that was tested on each image, with its images: one for all of them, or one for each fold."""
    left, found = list(images), []
    for record in setting.records:
        if tested := [name for name in left if name in record.images.names]:
            found.append((record, tested))
            left = [name for name in left if name not in tested]
    return found


def choose_images(settings: Sequence[Setting]) -> list[str]:
    """Of each foreground class the middle and the hardest image, by mean Dice over all settings."""
    columns = [name for name in _columns(settings) if name.startswith("dice_") and name != "dice_bg"]
    chosen: list[str] = []
    for column in columns:
        tables = [per_image(setting, column) for setting in settings]
        shared = set.intersection(*(set(table) for table in tables)) if tables else set()
        scores = {name: float(np.mean([table[name] for table in tables])) for name in shared}
        ranked = sorted((score, name) for name, score in scores.items() if not math.isnan(score))
        if ranked:
            chosen += [ranked[len(ranked) // 2][1], ranked[0][1]]
    return list(dict.fromkeys(chosen))


def draw_examples(examples: Examples) -> Figure:
    """Two rows per image: the picture, and a zoom on the part of the border where the settings differ most."""
    rows, columns = len(examples.samples), 1 + len(examples.columns)
    pictures = [_row(examples, i) for i in range(rows)]
    ratios = [
        r for full, zoom in pictures for r in (full[0].shape[0] / full[0].shape[1], zoom[0].shape[0] / zoom[0].shape[1])
    ]
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(1.75 * columns, 1.75 * sum(ratios) + 0.22 * rows + 0.4), layout=tight)
    axes = figure.subplots(2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for i, parts in enumerate(pictures):
        for line, images in enumerate(parts):
            for axis, picture in zip(axes[2 * i + line], images, strict=True):
                axis.imshow(picture, interpolation="nearest", aspect="auto")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
        axes[2 * i, 0].set_ylabel(PurePath(examples.names[i]).stem, fontsize=10)
        axes[2 * i + 1, 0].set_ylabel("zoom", fontsize=10)
    for axis, name in zip(axes[0], ["truth", *examples.columns], strict=True):
        axis.set_title(name, fontsize=12, wrap=True)
    return figure


def _columns(settings: Sequence[Setting]) -> list[str]:
    return list(settings[0].records[0].images.columns) if settings else []


def _samples(source: Source, names: Sequence[str]) -> list[Sample]:
    index = {name: i for i, name in enumerate(source.names)}
    return [source[index[name]] for name in names if name in index]


def _row(examples: Examples, i: int) -> tuple[list[Picture], list[Picture]]:
    sample = examples.samples[i]
    truth = sample.mask if sample.mask is not None else np.zeros_like(sample.image)
    masks = [truth, *examples.masks[i]]
    window = zoom_window(truth, [mask for mask in examples.masks[i] if mask is not None])
    full = [_tinted(sample.image, mask, truth, examples.classes, window) for mask in masks]
    zoom = [_tinted(sample.image[window], _cut(mask, window), truth[window], examples.classes) for mask in masks]
    return full, zoom


def _cut(mask: Mask | None, window: tuple[slice, slice]) -> Mask | None:
    return None if mask is None else mask[window]


def zoom_window(truth: Mask, masks: Sequence[Mask]) -> tuple[slice, slice]:
    """A square on the true border where most predictions are wrong; on the border's first point where none is."""
    side = max(16, min(truth.shape) // ZOOM)
    wrong = np.sum([mask != truth for mask in masks], axis=0, dtype=np.float32) if masks else np.zeros(truth.shape)
    density = cv2.blur(np.asarray(wrong, np.float32), (side // 2, side // 2))
    labels = truth.astype(np.int16)
    border = np.zeros(truth.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    where = np.where(border, density, -1.0) if border.any() else density
    y, x = (int(value) for value in np.unravel_index(int(where.argmax()), truth.shape))
    top = int(np.clip(y - side // 2, 0, max(truth.shape[0] - side, 0)))
    left = int(np.clip(x - side // 2, 0, max(truth.shape[1] - side, 0)))
    return slice(top, top + side), slice(left, left + side)


def _tinted(
    image: NDArray[np.uint8],
    mask: Mask | None,
    truth: Mask,
    classes: Mapping[str, int],
    window: tuple[slice, slice] | None = None,
) -> Picture:
    """The image with the classes tinted, pixel by pixel, and the truth as a thin white line."""
    if mask is None:
        return np.full((*image.shape, 3), 245, np.uint8)
    scale = max(1, round(_SIDE / max(image.shape)))
    big = [part.repeat(scale, 0).repeat(scale, 1) for part in (image, mask, truth)]
    picture = cv2.cvtColor(big[0], cv2.COLOR_GRAY2RGB).astype(np.uint8)
    for id_, colour in colours(classes).items():
        region = big[1] == id_
        picture[region] = (0.6 * picture[region] + 0.4 * np.array(colour)).astype(np.uint8)
        outline(picture, region, colour, 2)
        outline(picture, big[2] == id_, TRUTH_COLOUR, 1)
    if window:
        rows, columns = window
        corners = (columns.start * scale, rows.start * scale), (columns.stop * scale - 1, rows.stop * scale - 1)
        cv2.rectangle(picture, *corners, (255, 221, 87), 2)
    return picture
