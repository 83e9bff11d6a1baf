"""What the page of `famseg serve` does with an image: a picture with calipers, and a report in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from famseg.errors import UserError
from famseg.inference import Predictor, segment
from famseg.overlays import Picture
from famseg.prediction.findings import MEANINGS, NAMES, Findings, examine, in_words, parse_weeks, weeks_and_days
from famseg.prediction.readout import draw_readout
from famseg.prediction.scans import read_scan
from famseg.prediction.spacing import pixel_size

_CONFIDENCE = (
    "Mean probability that the network gives its own answer within the outline. Near 100 % says that it is sure, "
    "not that it is right."
)


@dataclass(frozen=True)
class Viewer:
    """What the page does with an image.

    Attributes:
        members: networks, whose probabilities are averaged.
    """

    members: Sequence[Predictor]

    def measure(self, file: str | None, spacing: str, weeks: str) -> tuple[Picture, str]:
        """Segment and measure an uploaded image.

        Args:
            file: where the upload lies.
            spacing: mm per pixel as typed, empty when not known; a DICOM file's own goes before it.
            weeks: gestational age as typed; empty when not known.

        Returns:
            The image with calipers and numbers, RGB, and a report in Markdown.

        Raises:
            UserError: the image or an entry cannot be used; the message names no folder of this computer.
        """
        if not file:
            raise UserError("Choose an image first: PNG, JPEG, TIFF or DICOM.")
        path = Path(file)
        try:
            age = parse_weeks(weeks) if weeks.strip() else math.nan
            typed = pixel_size(spacing.strip().replace(",", "."), "mm per pixel") if spacing.strip() else math.nan
            scan = read_scan(path, lambda _: typed)
        except UserError as error:
            raise UserError(str(error).replace(str(path), path.name)) from error
        (segmentation,) = segment(self.members, [scan.image])
        findings = examine(segmentation, self.members[0].classes, scan.spacing, age)
        picture = draw_readout(scan.image, segmentation.mask, findings, self.members[0].classes)
        return picture, report(findings, scan.notes)


def report(findings: Findings, notes: Sequence[str] = ()) -> str:
    """Measurements, ages, confidence and quality in Markdown."""
    parts = [_lengths(findings), _ages(findings)]
    confidence = [f"{_name(c)} **{100 * p:.0f} %**" for c, p in findings.confidence.items() if not math.isnan(p)]
    if confidence:
        parts.append(f"**Confidence** {', '.join(confidence)}  \n<small>{_CONFIDENCE}</small>")
    remarks = [f"{_name(name)}: {MEANINGS[flag]}" for name, flags in findings.flags().items() for flag in flags]
    remarks += [escape(note) for note in notes]
    parts.append("**Quality**\n\n" + "\n".join(f"- {remark}" for remark in remarks or ["nothing to remark"]))
    return "\n\n".join(parts)


def _name(class_name: str) -> str:
    return NAMES.get(class_name, escape(class_name))


def _lengths(findings: Findings) -> str:
    lines = ["| | mm | centile |", "|---|---:|---:|"]
    for length in findings.lengths:
        mm = "-" if math.isnan(length.mm) else f"{length.mm:.1f}"
        lines.append(f"| {length.name} | {mm} | {in_words(length.centile)} |")
    return "\n".join(lines)


def _ages(findings: Findings) -> str:
    lines = []
    for age in findings.ages:
        interval = "" if math.isnan(age.low) else f" ({weeks_and_days(age.low)} to {weeks_and_days(age.high)})"
        said = "outside the formula's range" if age.flag == "out_of_range" else "-"
        lines.append(
            f"{age.method}: " + (said if math.isnan(age.weeks) else f"**{weeks_and_days(age.weeks)}**{interval}")
        )
    return "**Gestational age**\n\n" + "\n".join(f"- {line}" for line in lines)
