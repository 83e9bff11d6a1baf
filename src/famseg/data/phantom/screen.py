"""What stored screens show besides the sector."""

import numpy as np

from famseg.data.source import Pixels


def screen(image: Pixels, mask: Pixels, rng: np.random.Generator) -> None:
    """Draw the grey bar and blackened corners into an image (H, W); corners that would hide labels are left out."""
    height, width = image.shape
    bar = np.linspace(255, 0, max(height * 3 // 10, 2))
    image[height // 22 : height // 22 + len(bar), : max(width // 70, 1)] = bar[:, None]
    tall, wide = (rng.uniform(0.04, 0.2, size=2) * [height, 1.5 * width]).astype(int)
    corners = [(slice(height - tall - height // 30, height - height // 30), slice(width - wide, width))]
    if rng.random() < 0.4:
        corners.append((slice(0, tall), slice(width - wide // 2, width)))
    for corner in corners:
        if not mask[corner].any():
            image[corner] = 0
