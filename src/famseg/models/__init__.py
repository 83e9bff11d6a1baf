"""Networks: image -> logits. No loss, no Lightning, no Hydra."""

from famseg.models.famseg import SIZES, FAMSeg

__all__ = ["SIZES", "FAMSeg"]
