"""Loss of a segmentation: cross-entropy + Dice. Ours: the paper does not name its loss."""

import torch
from torch import Tensor, nn


class CrossEntropyDice(nn.Module):
    """Weighted sum of the pixel cross-entropy and the soft Dice loss (arXiv 1606.04797) over the batch.

    Args:
        ce_weight: weight of the cross-entropy.
        dice_weight: weight of the Dice loss.
        smooth: pixels added to both sides of the Dice ratio, so that a class absent from the batch has a gradient.
    """

    def __init__(self, ce_weight: float = 1.0, dice_weight: float = 1.0, smooth: float = 1.0) -> None:
        super().__init__()
        self.ce_weight, self.dice_weight, self.smooth = ce_weight, dice_weight, smooth

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Scalar loss, float32.

        Args:
            logits: (B, classes, H, W), any float type.
            mask: (B, H, W) int64, output indices.
        """
        log_probabilities = logits.float().log_softmax(1)  # (B, C, H, W)
        # gather instead of nll_loss: the latter has no deterministic kernel for maps on GPUs
        cross_entropy = -log_probabilities.gather(1, mask[:, None]).mean()
        return self.ce_weight * cross_entropy + self.dice_weight * self._dice(log_probabilities.exp(), mask)

    def _dice(self, probabilities: Tensor, mask: Tensor) -> Tensor:
        classes = torch.arange(probabilities.shape[1], device=mask.device)[None, :, None, None]
        target = (mask[:, None] == classes).to(probabilities.dtype)  # (B, C, H, W)
        overlap = (probabilities * target).sum((0, 2, 3))
        total = (probabilities + target).sum((0, 2, 3))
        return 1 - ((2 * overlap + self.smooth) / (total + self.smooth)).mean()
