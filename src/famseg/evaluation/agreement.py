"""How far measurements agree with the truth: scatter and Bland-Altman plots (Bland, Altman, Lancet 327:307, 1986)."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

LENGTHS = {"hc": "HC", "fl": "FL"}
_DOT, _LINE, _BAND = "#1f5fa8", "#333333", "#d7e3f1"


@dataclass(frozen=True)
class Agreement:
    """Differences, predicted less true, of one measurement.

    Attributes:
        true: mm (n,), of the images where both values are there.
        predicted: mm (n,).
        groups: (n,) numbers from 0 on: the examination or subject of each image, whose differences are alike.
        missed: images with a true value where nothing was predicted. They have no difference, so they are counted.
    """

    true: NDArray[np.float64]
    predicted: NDArray[np.float64]
    groups: NDArray[np.int64]
    missed: int

    @property
    def differences(self) -> NDArray[np.float64]:
        """Predicted less true, mm (n,)."""
        return self.predicted - self.true

    @property
    def bias(self) -> float:
        """Mean difference, mm."""
        return float(self.differences.mean())

    @property
    def sd(self) -> float:
        """Standard deviation of the differences, mm; NaN for less than two."""
        return float(self.differences.std(ddof=1)) if len(self.true) > 1 else math.nan

    def limits(self) -> tuple[float, float]:
        """The 95 % limits of agreement, mm."""
        return self.bias - 1.96 * self.sd, self.bias + 1.96 * self.sd

    def uncertainty(self) -> tuple[float, float, float]:
        """Half-widths, mm, of the 95 % confidence intervals of lower limit, bias and upper limit; NaN for one group.

        From the groups' sums, so that images of one group need not be independent (Liang, Zeger, Biometrika 73:13,
        1986), with Student's t of the groups less one. With one image a group they are Bland and Altman's: t SD/sqrt(n)
        for the bias, about sqrt(3) times that for a limit. The bootstrap of groups is too narrow for limits: for 30
        subjects of three images it held 88 % of them and this 91 %, for 10 subjects 82 and 89 % (simulated, normal).
        """
        off = self.differences - self.bias
        of_sd = (off**2 - self.sd**2) / (2 * self.sd or 1)  # what each image adds to the SD
        lower, bias, upper = (self._half_width(off + share * of_sd) for share in (-1.96, 0, 1.96))
        return lower, bias, upper

    def _half_width(self, influence: NDArray[np.float64]) -> float:
        sums = np.bincount(self.groups, influence)
        count = len(sums)
        if count < 2:
            return math.nan
        error = math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(influence)
        return float(student.ppf(0.975, count - 1)) * error


def agreement(rows: Sequence[Mapping[str, Any]], length: str, groups: Sequence[Hashable]) -> Agreement:
    """The agreement of a measurement over a table of images.

    Args:
        rows: a row per image; `<length>_mm` is true, `<length>_mm_predicted` the prediction, NaN where there is none.
        length: "hc", "bpd", "ofd" or "fl".
        groups: the examination or subject of each row.
    """
    there = [(row, group) for row, group in zip(rows, groups, strict=True) if f"{length}_mm" in row]
    values = [(row[f"{length}_mm"], row[f"{length}_mm_predicted"]) for row, _ in there]
    pairs = np.array(values, np.float64).reshape(-1, 2)
    found = np.isfinite(pairs).all(axis=1)
    index: dict[Hashable, int] = {}
    member = [index.setdefault(there[row][1], len(index)) for row in np.flatnonzero(found)]
    missed = np.isfinite(pairs[:, 0]) & ~found
    return Agreement(pairs[found, 0], pairs[found, 1], np.array(member, np.int64), int(missed.sum()))


def write_agreement(folder: Path, rows: Sequence[Mapping[str, Any]], groups: Sequence[Hashable]) -> list[Path]:
    """Write `agreement_hc.png` and `agreement_fl.png`, each where at least two images have both values.

    Args:
        folder: where they go.
        rows: the per-image table of a test.
        groups: the examination or subject of each row.

    Returns:
        The files written.
    """
    written = []
    for length, name in LENGTHS.items():
        found = agreement(rows, length, groups)
        if len(found.true) > 1:
            path = folder / f"agreement_{length}.png"
            folder.mkdir(parents=True, exist_ok=True)
            figure(found, name).savefig(path, dpi=120)
            written.append(path)
    return written


def figure(found: Agreement, name: str) -> Any:
    """The `matplotlib` figure of one measurement: scatter on the left, Bland-Altman on the right."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no screen

    drawn = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = drawn.subplots(1, 2)
    _scatter(left, found, name)
    _bland_altman(right, found, name)
    missed = f"; {found.missed} without a prediction, not in the plots" if found.missed else ""
    drawn.suptitle(f"{name}: {len(found.true)} images{missed}", fontsize=12)
    return drawn


def _scatter(axes: Any, found: Agreement, name: str) -> None:
    low, high = (edge(found.true.tolist() + found.predicted.tolist()) for edge in (min, max))
    margin = 0.04 * (high - low) or 1
    span = (low - margin, high + margin)
    axes.plot(span, span, color=_LINE, linewidth=1, label="equal")
    axes.scatter(found.true, found.predicted, s=16, color=_DOT, alpha=0.6, linewidths=0)
    error = np.abs(found.differences)
    axes.set(xlim=span, ylim=span, aspect="equal", xlabel=f"true {name}, mm", ylabel=f"predicted {name}, mm")
    axes.set_title(f"mean absolute error {error.mean():.2f} mm, median {np.median(error):.2f} mm", fontsize=10)
    axes.legend(frameon=False, loc="upper left")


def _bland_altman(axes: Any, found: Agreement, name: str) -> None:
    low, high = found.limits()
    lines = zip((low, found.bias, high), found.uncertainty(), ("-1.96 SD", "bias", "+1.96 SD"), strict=True)
    for value, half, text in lines:
        if not math.isnan(half):
            axes.axhspan(value - half, value + half, color=_BAND, linewidth=0)
        axes.axhline(value, color=_LINE, linewidth=1, linestyle="-" if text == "bias" else "--")
        axes.annotate(f"{text}\n{value:+.2f} mm", (1.01, value), xycoords=("axes fraction", "data"), va="center")
    axes.axhline(0, color=_LINE, linewidth=0.5, linestyle=":")
    axes.scatter((found.true + found.predicted) / 2, found.differences, s=16, color=_DOT, alpha=0.6, linewidths=0)
    axes.set(xlabel=f"mean of true and predicted {name}, mm", ylabel="predicted - true, mm")
    count = len(set(found.groups.tolist()))
    bands = f"bands: 95 % confidence intervals over {count} examinations or subjects"
    axes.set_title(bands if count > 1 else "no bands: all images are of one examination or subject", fontsize=10)
