"""The only LightningModule: a segmentation network, its loss, its optimizer phases and its scores."""

from collections.abc import Mapping
from typing import Any, Literal

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from famseg.casts import PrecastWeights
from famseg.checkpoint import METADATA_KEY
from famseg.errors import UserError
from famseg.evaluation.scorer import ImageScorer
from famseg.inference import Predictor
from famseg.losses import supervised, without_unknown
from famseg.metrics.confusion import class_scores
from famseg.metrics.mean import FiniteMean
from famseg.phases import OptimizerOption, Phase, Switch, plan
from famseg.replay import ReplayedStep
from famseg.schedules import Decay

PROGRESS_KEY = "famseg_progress"


class SegmentationTask(lightning.LightningModule):
    """Trains, validates and tests a network that maps images (B, C, H, W) to logits (B, classes, H, W).

    Args:
        model: the network.
        loss: (logits, mask (B, H, W) of output indices, known (B, classes)) -> scalar.
        classes: class names in the order of the outputs -> ids in the original masks.
        optimizer: optimizer of the first phase.
        scheduler: decay of the learning rate.
        switch: what follows the first phase, if anything (paper, section 3.4).
        channels_last: memory format of the network's maps; auto: where there is a GPU, which needs half the time so.
        auxiliary_weight: of the loss of each auxiliary head, for networks that have some in training.

    Attributes:
        metadata: plain values that go into every checkpoint, for rebuilding the network.

    Raises:
        UserError: a negative weight.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        classes: Mapping[str, int],
        optimizer: OptimizerOption,
        scheduler: Decay,
        switch: Switch | None = None,
        channels_last: bool | Literal["auto"] = "auto",
        auxiliary_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if channels_last == "auto":
            channels_last = torch.cuda.is_available()
        if auxiliary_weight < 0:
            raise UserError(f"task.auxiliary_weight={auxiliary_weight}: give 0 or more.")
        self.model = model.to(memory_format=torch.channels_last) if channels_last else model
        self._precast = PrecastWeights(self.model)
        self.loss = loss
        self.classes = dict(classes)
        self.optimizer, self.scheduler, self.switch = optimizer, scheduler, switch or None
        self.metadata: dict[str, Any] = {}
        self.channels_last = bool(channels_last)
        self.auxiliary_weight = auxiliary_weight
        self.phase = 0
        self.losses: list[float] = []  # mean training loss of every finished epoch: the state of the decay
        self.train_loss, self.val_loss = FiniteMean(), MeanMetric()
        # to validate its arguments it sorts all pixels of a batch; `Preparation.outputs` has checked each image
        self.confusion = MulticlassConfusionMatrix(len(self.classes), validate_args=False)
        self.test_rows: list[dict[str, Any]] = []
        self.test_totals: dict[str, float] = {}

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, classes, H, W) of normalised images (B, C, H, W).

        In training, a network with auxiliary heads gives a tuple: its logits, then theirs.
        """
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        outputs: Tensor | tuple[Tensor, ...] = self._precast(image)
        return outputs

    # training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch with `image` (B, C, H, W), `mask` (B, H, W) and `known` (B, classes)."""
        loss = self.batch_loss(batch["image"], batch["mask"], batch["known"])
        value = loss.detach().clone()  # the memory of a captured loss is that of the next one
        images = len(batch["image"])
        self.train_loss.update(images * value, images)
        self.log("train/loss_step", value, logger=False)  # not prog_bar: Lightning would read it in each step, and wait
        return loss

    def batch_loss(self, image: Tensor, mask: Tensor, known: Tensor) -> Tensor:
        """Loss of a batch; the CUDAGraphs callback puts its capture here."""
        return supervised(self.loss, self(image), mask, known, self.auxiliary_weight)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Nothing in captured steps: each writes its gradients over those of the last one."""
        if not isinstance(self.batch_loss, ReplayedStep):
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def plan_phases(self) -> list[Phase]:
        """The optimizer phases of this run; the total batch counts devices and accumulation, Eq. (11)-(12)."""
        trainer = self.trainer
        batch = trainer.datamodule.batch_size * trainer.world_size * trainer.accumulate_grad_batches  # type: ignore[attr-defined]
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise ValueError("SegmentationTask needs trainer.max_epochs: the decays and switches are planned by it.")
        return plan(self.optimizer, self.scheduler, self.switch, max_epochs=trainer.max_epochs, batch=batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of the current phase; its rate is set once per epoch by the OptimizerPhases callback."""
        phase = self.plan_phases()[self.phase]
        try:
            optimizer = phase.optimizer.optimizer(parameter_groups(self.model), fused=self._may_fuse())
        except (TypeError, ValueError) as error:  # torch's refusal of a constant
            raise UserError(f"optimizer {phase.optimizer.name}: {error}.") from error
        for group in optimizer.param_groups:
            group["lr"] = phase.rate(self.losses)
        return optimizer

    def _may_fuse(self) -> bool:
        """Lightning clips no gradients in mixed precision where the optimizer could unscale them itself."""
        clips = self.trainer.gradient_clip_val is not None
        return self.trainer.precision != "16-mixed" and not (clips and self.trainer.precision == "bf16-mixed")

    @property
    def validation_scores(self) -> list[str]:
        """Names of what an epoch's validation logs."""
        each = [f"val/{score}_{name.lower()}" for score in ("iou", "dice") for name in self.classes]
        return ["val/loss", "val/miou", *each]

    # validation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and confusion matrix at the network's resolution."""
        loss, prediction = self.batch_evaluation(batch["image"], batch["mask"], batch["known"])
        self.val_loss.update(loss, weight=len(prediction))
        self.confusion.update(prediction, batch["mask"])

    def batch_evaluation(self, image: Tensor, mask: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and predicted classes (B, H, W) of a batch; the CUDAGraphs callback puts captures here."""
        logits = self(image)
        return self.loss(logits, mask, known), without_unknown(logits.argmax(1), known)

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss`, `val/miou`, `val/iou_<class>` and `val/dice_<class>` of the whole split."""
        scores = class_scores(self.confusion.compute().cpu().numpy(), tuple(self.classes))
        self.log("val/loss", self.val_loss.compute())
        self.log_dict({f"val/{name}": value for name, value in scores.items()}, prog_bar=False)
        self.val_loss.reset()
        self.confusion.reset()

    # test: in the original resolution, image by image -------------------------------------------------------------

    def on_test_epoch_start(self) -> None:
        """Start a fresh table of images."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.scorer = ImageScorer(self.classes, data.source.classes, data.letterbox)
        self.test_rows = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Predict every image of the batch in its original size; many are scored together."""
        self.scorer.add(self(batch["image"]), batch)

    def on_test_epoch_end(self) -> None:
        """Log `test/...` of the whole split; `test_rows` and `test_totals` keep it for the run's folder."""
        self.test_rows, confusion = _gathered(self.scorer.rows(), self.scorer.confusion)
        self.test_totals = self.scorer.totals(self.test_rows, confusion)
        self.log_dict({f"test/{name}": value for name, value in self.test_totals.items()})

    def predictor(self) -> Predictor:
        """The network in evaluation mode with what its input needs, for pictures beside a run."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return Predictor(self.model.eval(), self.classes, data.letterbox.size, data.mean, data.std)

    # checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain metadata of model and data, and the progress of the phases."""
        data = self.trainer.datamodule.metadata()  # type: ignore[attr-defined]
        checkpoint[METADATA_KEY] = self.metadata | {"data": data}
        mean = self.train_loss  # of the epoch so far, for a checkpoint within it
        state = {"mean_value": mean.total.cpu(), "weight": mean.count.cpu()}
        checkpoint[PROGRESS_KEY] = {"phase": self.phase, "losses": list(self.losses), "train_loss": state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set the phase; Lightning calls this before it builds the optimizer whose state it then restores."""
        progress = checkpoint[PROGRESS_KEY]
        self.phase, self.losses = progress["phase"], list(progress["losses"])
        self.train_loss.reset()
        state = progress["train_loss"]
        if state["weight"] > 0:
            self.train_loss.update(state["mean_value"], state["weight"])


def _gathered(
    rows: list[dict[str, Any]], confusion: NDArray[np.int64]
) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Rows and confusion of all processes, rows in the order of the files."""
    if not torch.distributed.is_initialized():
        return rows, confusion
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, (rows, confusion))
    everything = sorted((row for part in parts for row in part[0]), key=lambda row: str(row["file"]))
    return everything, sum(part[1] for part in parts)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights, which decay, and vectors (norms, biases, layer scales, Mamba's A and D), which do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights = {"params": [p for p in parameters if p.ndim > 1]}
    vectors = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    return [group for group in (weights, vectors) if group["params"]]
