"""Folders of studies as train.py leaves them, with scores that are made up: for tests of what reads them."""

import copy
import functools
import json
from pathlib import Path

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from famseg import configuration
from famseg.files import write_table

HC18 = ("BG", "FB")
THREE = ("BG", "FL", "FB")
REVISION = "0123456789ab"


@functools.cache
def composed(overrides):
    """The resolved configuration of a run, and the options chosen."""
    with initialize_config_dir(str(configuration.folder().resolve()), version_base="1.3"):
        config = compose("train", [*overrides, "output=OUTPUT"], return_hydra_config=True)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return OmegaConf.to_container(config, resolve=True), choices


def write_cell(
    study,
    *overrides,
    seed=0,
    quality=0.9,
    classes=HC18,
    images=40,
    fold=None,
    state="done",
    model=None,
    epochs=5,
    revision=REVISION,
    gpus=(),
    updated=1_700_000_000.0,
    name=None,
):
    """Write a finished cell (or one in another state, without results) and return its folder.

    `quality` is the mean Dice that its images are drawn around; `model` renames the model's option, for models that are
    not configured here. `fold` tests every fifth examination, as fold 0 to 4 of five; None tests all images.
    """
    overrides += () if fold is None else (f"data.fold={fold}",)
    label = name or f"{model or 'run'},{','.join(overrides)},seed={seed}".replace("/", "_")
    folder = Path(study) / label
    config, choices = _as_run(folder, overrides, seed, model)
    _describe(folder, config, choices, overrides, revision, gpus)
    error = "Traceback\nRuntimeError: planted" if state == "failed" else None
    status = {"state": state, "started": updated - 60, "updated": updated, "seconds": 60.0, "error": error}
    (folder / "status.json").write_text(json.dumps(status))
    if state == "done":
        _results(folder, quality, classes, images, fold, epochs, np.random.default_rng([seed, *label.encode()]))
    return folder


def _as_run(folder, overrides, seed, model):
    config, choices = (copy.deepcopy(part) for part in composed(tuple(overrides)))
    config["seed"] = config["data"]["seed"] = config["callbacks"]["seeding"]["seed"] = seed
    config = json.loads(json.dumps(config).replace('"OUTPUT"', json.dumps(str(folder))))
    if model:
        choices["model"] = model
        config["model"] = {"_target_": f"famseg.models.{model}", "num_classes": 3}
    return config, choices


def _describe(folder, config, choices, overrides, revision, gpus):
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    environment = {"revision": revision, "gpus": list(gpus), "cpus": 2}
    (folder / "environment.json").write_text(json.dumps(environment))


def _results(folder, quality, classes, images, fold, epochs, rng):
    difficulty = np.random.default_rng(0).normal(0, 0.03, images)  # of the images, the same for all cells
    luck = rng.normal(0, 0.003)
    tested = [i for i in range(images) if fold is None or i // 2 % 5 == fold]
    rows = [_image(i, min(quality + luck + difficulty[i], 0.995), classes, rng) for i in tested]
    write_table(folder / "test.csv", rows)
    names = [name.lower() for name in classes]
    dice = {f"dice_{name}": np.nanmean([row[f"dice_{name}"] for row in rows]) for name in names}
    iou = {f"iou_{name}": dice[f"dice_{name}"] / (2 - dice[f"dice_{name}"]) for name in names}
    further = {k: np.nanmean([row[k] for row in rows]) for k in rows[0] if k.startswith(("hd95_mm", "jaggedness"))}
    further |= {f"missed_{name}": 0.0 for name in names[1:]}
    lengths = {"hc_mae_mm": np.nanmean([abs(row["hc_error_mm"]) for row in rows])}
    write_table(
        folder / "test_scores.csv", [{"miou": np.mean(list(iou.values())), **iou, **dice, **lengths, **further}]
    )
    splits = [(i, "test" if i in tested else "train") for i in range(images + 9)]
    write_table(folder / "split.csv", [{"file": _file(i), "group": f"{i // 2:03d}", "split": s} for i, s in splits])
    _epochs(folder, quality, classes, epochs, rng)


def _image(i, quality, classes, rng):
    row = {"file": _file(i)}
    for name in map(str.lower, classes):
        loss = {"bg": 0.2, "fl": 2.0}.get(name, 1.0) * (1 - quality)
        row[f"dice_{name}"] = dice = float(np.clip(1 - loss + rng.normal(0, 0.01), 0, 1))
        row[f"iou_{name}"] = dice / (2 - dice)
        if name != "bg":
            row |= {f"hd95_mm_{name}": 40 * (1 - dice), f"jaggedness_{name}": 0.3 * (1 - dice), f"flags_{name}": ""}
    true = 80.0 + 5 * i
    error = float(rng.normal(0, 30 * (1 - quality)))
    row |= {"hc_mm": true, "hc_mm_predicted": true + error, "hc_error_mm": error}
    return row | ({"fl_mm": 15.0 + i} if "FL" in classes else {})


def _epochs(folder, quality, classes, epochs, rng):
    loss = 1.6 * np.exp(-np.arange(epochs) * 4 * quality / epochs) + rng.normal(0, 0.01, epochs)
    metrics = [
        {"epoch": e, "optimizer": "adamw", "lr": 1e-3, "train/loss": loss[e], "val/miou": quality - 0.3 * loss[e]}
        for e in range(epochs)
    ]
    write_table(folder / "metrics.csv", metrics)
    speed = {"train_seconds": 10.0, "data_seconds": 0.5, "images_per_s": 50 + rng.normal()}
    write_table(folder / "timing.csv", [{"epoch": e, **speed} for e in range(epochs)])


def _file(i):
    return f"{i // 2:03d}_{i % 2}.png"
