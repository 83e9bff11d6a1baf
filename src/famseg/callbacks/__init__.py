"""Lightning callbacks: optimizer phases, seeds, and what a run leaves in its folder."""

from famseg.callbacks.compilation import KernelCompilation
from famseg.callbacks.ema import MovingAverage
from famseg.callbacks.graphs import CUDAGraphs
from famseg.callbacks.nan_guard import NanGuard
from famseg.callbacks.overlays import ValidationOverlays
from famseg.callbacks.phases import OptimizerPhases
from famseg.callbacks.preemption import Preemption
from famseg.callbacks.record import RunRecord
from famseg.callbacks.seeding import StepSeed

__all__ = [
    "CUDAGraphs",
    "KernelCompilation",
    "MovingAverage",
    "NanGuard",
    "OptimizerPhases",
    "Preemption",
    "RunRecord",
    "StepSeed",
    "ValidationOverlays",
]
