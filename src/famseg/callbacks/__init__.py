"""Lightning callbacks: optimizer phases, seeds, and what a run leaves in its folder."""

from famseg.callbacks.overlays import ValidationOverlays
from famseg.callbacks.phases import OptimizerPhases
from famseg.callbacks.record import RunRecord
from famseg.callbacks.seeding import StepSeed

__all__ = ["OptimizerPhases", "RunRecord", "StepSeed", "ValidationOverlays"]
