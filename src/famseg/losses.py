"""Loss of a segmentation: cross-entropy + Dice, also of auxiliary heads. Ours: the paper does not name its loss."""

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from famseg.errors import UserError
from famseg.kernels import BACKENDS, use_triton

MAX_CLASSES = 16  # that the kernel holds per pixel; more take the plain form


class CrossEntropyDice(nn.Module):
    """Weighted sum of the pixel cross-entropy and the soft Dice loss (arXiv 1606.04797) over the batch.

    Args:
        ce_weight: weight of the cross-entropy.
        dice_weight: weight of the Dice loss.
        smooth: pixels added to both sides of the Dice ratio, so that a class absent from the batch has a gradient.
        backend: "auto", "torch" or "triton", see `famseg.kernels`.

    Raises:
        UserError: a weight or `smooth` below 0, no weight above 0, or another backend.
    """

    def __init__(
        self, ce_weight: float = 1.0, dice_weight: float = 1.0, smooth: float = 1.0, backend: str = "auto"
    ) -> None:
        super().__init__()
        if min(ce_weight, dice_weight, smooth) < 0 or not ce_weight + dice_weight:
            given = f"ce_weight={ce_weight}, dice_weight={dice_weight}, smooth={smooth}"
            raise UserError(f"loss: {given}: give numbers from 0, and one of the weights above 0.")
        if backend not in BACKENDS:
            raise UserError(f"loss.backend={backend}: give {', '.join(BACKENDS)}.")
        self.ce_weight, self.dice_weight, self.smooth = ce_weight, dice_weight, smooth
        self.backend = backend

    def forward(self, logits: Tensor, mask: Tensor, known: Tensor | None = None) -> Tensor:
        """Scalar loss, float32 (float64 for float64 logits).

        Args:
            logits: (B, classes, H, W), any float type.
            mask: (B, H, W) int64, output indices.
            known: (B, classes) bool, which classes each mask marks wherever they are; None: all. The others are merged
                with the background (docs/data.md), and a class that no image of the batch knows has no Dice.
        """
        across = self.training and torch.distributed.is_initialized()  # devices may validate unequally many batches
        if logits.shape[1] <= MAX_CLASSES and use_triton(self.backend, logits):
            from famseg.kernels import loss  # Triton is imported where it runs

            marked = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device) if known is None else known
            sums = loss.sums(logits, mask, marked)
            if not across:
                return loss.loss_of(sums, marked, self.ce_weight / mask.numel(), self.dice_weight, self.smooth)
            entropy, (overlap, probability, pixels) = sums[0], sums[1:].view(3, -1)
        else:
            entropy, overlap, probability, pixels = loss_sums(logits, mask, known)
        total = probability + pixels  # (C,)
        labelled = torch.ones_like(total) if known is None else known.any(0).to(total.dtype)  # (C,)
        if across:  # the Dice of the whole batch, as on one device
            counts = torch.stack([overlap, total, labelled])
            overlap, total, labelled = all_reduce(counts).unbind()  # type: ignore[no-untyped-call]
            labelled = labelled.clamp(max=1)
        ratio = (2 * overlap + self.smooth) / torch.where(labelled > 0, total + self.smooth, 1)  # not 0 / 0; (C,)
        dice = 1 - (ratio * labelled).sum() / labelled.sum()
        result: Tensor = self.ce_weight * entropy / mask.numel() + self.dice_weight * dice
        return result


def loss_sums(logits: Tensor, mask: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums over a batch: cross-entropy (), and of each class (C,) overlap with the mask, probability, and pixels.

    Float32 (float64 for float64 logits); arguments as in `CrossEntropyDice.forward`.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if known is None else merge_unknown(logits, known)
    log_probabilities = logits.log_softmax(1)  # (B, C, H, W)
    # gather instead of nll_loss: the latter has no deterministic kernel for maps on GPUs
    entropy = -log_probabilities.gather(1, mask[:, None]).sum()
    probabilities = log_probabilities.exp()
    classes = torch.arange(logits.shape[1], device=mask.device)[None, :, None, None]
    target = (mask[:, None] == classes).to(probabilities.dtype)  # (B, C, H, W)
    overlap, probability, pixels = (t.sum((0, 2, 3)) for t in (probabilities * target, probabilities, target))
    return entropy, overlap, probability, pixels


def supervised(
    loss: nn.Module, outputs: Tensor | tuple[Tensor, ...], mask: Tensor, known: Tensor, auxiliary_weight: float
) -> Tensor:
    """Loss of all that a network gives in training: loss(logits) + auxiliary_weight * sum of loss(auxiliary logits).

    Args:
        loss: (logits, mask, known) -> scalar.
        outputs: logits (B, classes, H, W), or a tuple of them and the logits of auxiliary heads, of the same shape.
        mask: (B, H, W) int64, output indices.
        known: (B, classes) bool, see `CrossEntropyDice`.
        auxiliary_weight: of the loss of each auxiliary head.
    """
    logits, *auxiliary = (outputs,) if isinstance(outputs, Tensor) else outputs
    total: Tensor = loss(logits, mask, known)
    for head in auxiliary:
        total = total + auxiliary_weight * loss(head, mask, known)
    return total


def merge_unknown(logits: Tensor, known: Tensor) -> Tensor:
    """Logits whose first class stands for the background or any class that the image does not know.

    Its probability is the sum of theirs, and theirs become 0: how a pixel is shared out among them costs nothing.

    Args:
        logits: (B, classes, H, W), the background first.
        known: (B, classes) bool; the first column is true.
    """
    apart = known[:, :, None, None]  # (B, C, 1, 1)
    merged = ~apart
    merged[:, 0] = True
    background = logits.masked_fill(~merged, -torch.inf).logsumexp(1, keepdim=True)  # (B, 1, H, W)
    return torch.cat([background, logits.masked_fill(~apart, -torch.inf)[:, 1:]], 1)


def without_unknown(prediction: Tensor, known: Tensor) -> Tensor:
    """Predicted output indices (B, H, W) with every class that the image does not know, (B, classes), turned into 0."""
    images = torch.arange(len(known), device=known.device)[:, None, None]
    return prediction * known[images, prediction]
