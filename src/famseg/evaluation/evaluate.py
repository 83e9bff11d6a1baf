"""Scores a checkpoint on a data set: the work of eval.py."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from famseg.checkpoint import load_predictor, resolve
from famseg.data.datamodule import SegmentationDataModule
from famseg.data.workers import batches_of
from famseg.deploy import deployed
from famseg.errors import UserError
from famseg.evaluation.results import table, write_results
from famseg.evaluation.scorer import ImageScorer
from famseg.evaluation.seen import title, with_split
from famseg.inference import Predictor, select_device


def evaluate(config: DictConfig, folder: Path) -> dict[str, float]:
    """Score every image of the test split in its original size and write the results.

    Where `data` is named, `test.csv` has the column `split`: what the run had the image for.

    Args:
        config: `run` (folder or checkpoint), `data`, `device`, `tta`, `overlays`.
        folder: where `test.csv`, `test_summary.csv` and the overlays go.

    Returns:
        The scores of the split.

    Raises:
        UserError: another value, no such checkpoint or device, or data that does not fit.
    """
    if config.tta not in ("none", "flip"):
        raise UserError(f"tta={config.tta}: give none or flip.")
    if not isinstance(config.overlays, int) or config.overlays < 0:
        raise UserError(f"overlays={config.overlays}: give a whole number, 0 or more.")
    predictor = load_predictor(config.run, select_device(config.device))
    predictor = replace(predictor, model=deployed(predictor.model), flip=config.tta == "flip")
    data = _data(config, predictor)
    _require_common_class(config.run, predictor.classes, data.source.classes)
    data.setup("test")
    scorer = ImageScorer(predictor.classes, data.source.classes, data.letterbox)
    loader = data.test_dataloader()
    with batches_of(loader) as batches:
        for batch in track(batches, "Predicting", len(loader), transient=True):
            scorer.add(predictor(batch["image"]), batch)
    rows = scorer.rows("Scoring")
    totals = scorer.totals(rows)
    split_file = _home(config.run) / "split.csv"
    if config.data:
        rows = with_split(rows, split_file)
    write_results(folder, rows, totals, predictor, data.source, config.overlays, data.batch_size)
    Console().print(table(totals, title(rows, split_file)), f"A row per image: {folder / 'test.csv'}", sep="\n")
    return totals


def _require_common_class(run: str, known: Mapping[str, int], labelled: Mapping[str, int]) -> None:
    ours, theirs = list(known)[1:], list(labelled)[1:]
    if ours and theirs and not set(ours) & set(theirs):
        mend = f"If they are one, name it alike: 'data.ids={{BG: 0, {ours[0]}: {labelled[theirs[0]]}}}'."
        raise UserError(f"{run}: marks {', '.join(ours)}, the data {', '.join(theirs)}: nothing to score. {mend}")


def _data(config: DictConfig, predictor: Predictor) -> SegmentationDataModule:
    """The datamodule, with the input size and the normalisation of the checkpoint."""
    if config.data:
        data: SegmentationDataModule = instantiate(config.data, **_needs(predictor))
        return data
    return data_of_run(config.run, predictor)


def data_of_run(run: str | Path, predictor: Predictor) -> SegmentationDataModule:
    """The data that a run was trained and tested on, with its own split.

    Args:
        run: the run's folder, or a checkpoint in it.
        predictor: the trained network: its input size and normalisation are kept.

    Raises:
        UserError: the checkpoint lies in no run's folder, or the data is no longer where it was.
    """
    home = _home(run)
    if not (home / "config.yaml").exists():
        raise UserError(f"{run}: lies in no run's folder, so its data is not known. Say which: data=hc18 ...")
    trained_on = OmegaConf.load(home / "config.yaml").data
    split = home / "split.csv"
    split_file = str(split) if split.exists() else None
    data: SegmentationDataModule = instantiate(trained_on, **_needs(predictor), split_file=split_file, images=None)
    return data


def _home(run: str | Path) -> Path:
    """The folder of the run that a checkpoint lies in, if it lies in one."""
    return resolve(run).parent.parent


def _needs(predictor: Predictor) -> dict[str, Any]:
    return {"size": list(predictor.size), "mean": predictor.mean, "std": predictor.std}
