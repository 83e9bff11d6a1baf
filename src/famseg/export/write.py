"""`famseg export`: a trained network as a file for other programs, checked by running it before it gets its name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from famseg.checkpoint import METADATA_KEY, load, trained
from famseg.data.images import MIN_SIDE
from famseg.data.phantom import Phantom
from famseg.data.source import Pixels
from famseg.errors import UserError
from famseg.export import formats
from famseg.export.runtimes import Run
from famseg.inference import Predictor

SMALL = (64, 96)  # where the scan of the deepest map is a single chunk
MOST = 2  # images of a batch


@dataclass(frozen=True)
class Deviation:
    """How far a file's outputs are from the network's, over some batches of one size.

    Attributes:
        size: height and width.
        batch: largest number of images in a batch.
        logits: largest difference, divided by the logit's size where that is above 1.
        pixels: pixels of another class.
        wrong: those of them that are no ties: the network's two logits are further apart than the tolerance explains.
        tolerance: of logits, as `logits` counts.
    """

    size: tuple[int, int]
    batch: int
    logits: float
    pixels: int
    wrong: int
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the file computes what the network computes; False for NaN too."""
        return self.logits <= self.tolerance and not self.wrong

    def __str__(self) -> str:
        masks = f"masks differ in {self.pixels} pixels, {self.wrong} of them no ties" if self.pixels else "masks equal"
        place = f"{self.size[0]} x {self.size[1]} (batch {self.batch})"
        return f"{place}: logits differ by {self.logits:.1e} at most, {masks}"


@dataclass(frozen=True)
class Checked:
    """What `export` wrote and found: `path` has the name asked for only if every deviation passed."""

    path: Path
    passed: bool
    message: str


def export(
    where: str | Path,
    kind: str,
    out: Path,
    size: tuple[int, int] | None = None,
    images: Sequence[tuple[str, Pixels]] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Checked:
    """Write a checkpoint's network as a file and run that file beside the network.

    Args:
        where: a run's folder or a checkpoint.
        kind: onnx, torchscript, pt2 or safetensors.
        out: the file; while it is unchecked, and for good if the check fails, it has `.unchecked` in its name.
        size: fixed height and width; None: any.
        images: names and uint8 (h, w) of the images to check with; none: two of the phantom.
        say: told what is being done.

    Raises:
        UserError: no such checkpoint, an impossible size, a missing extra, or a file that cannot be written.
    """
    if size and min(size) < MIN_SIDE:
        raise UserError(f"--size {size[0]} {size[1]}: give {MIN_SIDE} px a side or more.")
    content = load(where)
    metadata = content[METADATA_KEY] | {"export": {"format": kind, "size": size and list(size)}}
    if size:
        metadata["data"] = metadata["data"] | {"size": list(size)}
    predictor = Predictor.of(trained(content, where), metadata["data"])
    say(f"Writing {formats.FORMATS[kind].title} for {f'images of {size[0]} x {size[1]}' if size else 'any size'}.")
    if not size and formats.FORMATS[kind].symbolic:
        say("Sizes are symbols in it: that takes minutes on a few cores. --size H W is faster.")
    unchecked = out.with_name(f"{out.stem}.unchecked{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        formats.write(predictor.model, kind, unchecked, metadata, size)
    except OSError as error:
        raise UserError(f"{unchecked}: cannot be written ({error.strerror}). Give another --out.") from error
    say(f"Running it with {formats.FORMATS[kind].runner()}.")
    return _check(predictor, kind, unchecked, out, size is None, list(images) or _phantom(predictor.size))


def _check(
    predictor: Predictor, kind: str, unchecked: Path, out: Path, any_size: bool, images: Sequence[tuple[str, Pixels]]
) -> Checked:
    run, metadata = formats.read(unchecked, kind)
    if metadata["data"]["size"] != list(predictor.size):
        raise UserError(f"{unchecked}: lost its metadata.")
    kind_of_file = formats.FORMATS[kind]
    pixels = [image for _, image in images]
    cases = [(predictor.size, 1), (predictor.size, MOST)]
    if any_size:
        height, width = predictor.size
        cases = [(predictor.size, 1), ((5 * height // 4 + 1, 5 * width // 4 + 3), MOST), (SMALL, MOST)]
    found = [
        deviation(replace(predictor, size=size), run, pixels, batch, kind_of_file.tolerance) for size, batch in cases
    ]
    passed = all(one.passed for one in found)
    path = unchecked.replace(out) if passed else unchecked
    names = ", ".join(name for name, _ in images[:4]) + (f" and {len(images) - 4} more" if len(images) > 4 else "")
    sizes = "any batch, height and width" if any_size else f"any batch of {predictor.size[0]} x {predictor.size[1]}"
    verdict = "Checked" if passed else "THE CHECK FAILED, do not use it. Run"
    message = (
        f"{path}: {kind_of_file.title}, {path.stat().st_size / 1e6:.1f} MB, {sizes}. "
        f"{verdict} with {kind_of_file.runner()} on {names}, "
        f"allowed: {kind_of_file.tolerance:.0e} and ties.\n" + "\n".join(f"  {one}" for one in found)
    )
    return Checked(path, passed, message)


def deviation(predictor: Predictor, run: Run, images: Sequence[Pixels], batch: int, tolerance: float) -> Deviation:
    """Compare a file's network with the one it was made of.

    Args:
        predictor: the network, and the size that images are letterboxed to.
        run: the file's network.
        images: uint8 (h, w) each.
        batch: how many at a time.
        tolerance: of logits, times their size where that is above 1.
    """
    largest, pixels, wrong = 0.0, 0, 0
    for inputs in _batches(predictor, images, batch):
        with torch.no_grad():
            truth, ours = predictor(inputs), run(inputs)
        scale = truth.abs().clamp(min=1)
        # NaN compares with nothing: torch's max keeps it, Python's would lose it
        largest = float(torch.tensor([largest, float(((ours - truth).abs() / scale).max())]).max())
        chosen = ours.argmax(1, keepdim=True)
        gap = (truth.amax(1, keepdim=True) - truth.gather(1, chosen)) / scale.amax(1, keepdim=True)
        pixels += int((chosen != truth.argmax(1, keepdim=True)).sum())
        wrong += int((gap > 2 * tolerance).sum())
    return Deviation(predictor.size, min(batch, len(images)), largest, pixels, wrong, tolerance)


def _batches(predictor: Predictor, images: Sequence[Pixels], batch: int) -> Iterator[Tensor]:
    for start in range(0, len(images), batch):
        yield predictor.prepared(images[start : start + batch])


def _phantom(size: tuple[int, int]) -> list[tuple[str, Pixels]]:
    source = Phantom(MOST, [max(side, MIN_SIDE) for side in size])
    return [(sample.name, sample.image) for sample in (source[index] for index in range(MOST))]
