from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from famseg.data.datamodule import SegmentationDataModule
from famseg.data.on_device import engine, room_for
from famseg.data.source import Problem
from famseg.data.transforms import Augmentation
from famseg.errors import UserError

OPTIONS = {"size": (32, 48), "batch_size": 4, "folds": 4, "val_fraction": 0.2}


def jitter(image, mask, seed):
    return image ^ np.uint8(seed % 256), mask


@pytest.fixture
def data(toy):
    return SegmentationDataModule(toy(), augment=jitter, **OPTIONS)


def test_batches_of_each_split(data):
    data.setup("fit")
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert set(train) == set(val) == {"image", "mask", "known", "index"}
    assert (train["image"].shape, train["mask"].shape) == ((4, 1, 32, 48), (4, 32, 48))
    assert {data.source.names[index] for index in train["index"]} <= set(data.splits["train"])
    test = [name for batch in data.test_dataloader() for name in batch["name"]]
    assert test == data.splits["test"]


def test_every_training_batch_is_full(data):
    data.setup("fit")
    sizes = [len(batch["index"]) for batch in data.train_dataloader()]
    assert sizes == [4] * (len(data.splits["train"]) // 4)


def test_training_does_not_decode_twice(data):
    data.setup("fit")
    data._prepare.source = None
    assert len(list(data.train_dataloader())) == 3
    assert len(list(data.val_dataloader())) == 1


def test_cache_none_gives_the_same_batches(toy):
    batches = []
    for cache in ("ram", "none"):
        data = SegmentationDataModule(toy(), augment=jitter, cache=cache, **OPTIONS)
        data.setup("fit")
        batches.append(torch.cat([batch["image"] for batch in data.train_dataloader()]))
    assert torch.equal(*batches)


def test_mean_and_std_are_those_of_the_training_split(toy, data):
    data.setup("test")  # without fit
    only = SegmentationDataModule(toy(), **OPTIONS)
    only._prepare.measure(only.indices("train"), "test")
    assert (data.mean, data.std) == (only.mean, only.std)
    assert data.metadata() == {
        "classes": {"BG": 0, "FB": 2},
        "size": [32, 48],
        "resize": "letterbox",
        "mean": only.mean,
        "std": only.std,
    }


def test_fold_all_tests_everything_with_a_models_metadata(toy):
    data = SegmentationDataModule(
        toy(), size=(32, 48), fold="all", mean=0.4, std=0.2, classes={"BG": 0, "FL": 1, "FB": 2}
    )
    data.setup("test")
    batches = list(data.test_dataloader())
    assert [name for batch in batches for name in batch["name"]] == data.source.names
    assert batches[0]["mask"].unique().tolist() == [0, 2]
    assert np.unique(batches[0]["original_mask"][0]).tolist() == [0, 2]


def test_split_and_order_have_seeds_of_their_own(toy):
    one, two = (SegmentationDataModule(toy(), seed=seed, **OPTIONS) for seed in (0, 1))
    assert one.splits == two.splits != SegmentationDataModule(toy(), split_seed=1, **OPTIONS).splits
    for data in (one, two):
        data.setup("fit")
    assert next(iter(one.train_dataloader()))["index"].tolist() != next(iter(two.train_dataloader()))["index"].tolist()


def test_a_written_split_is_read_again(toy, tmp_path):
    first = SegmentationDataModule(toy(), fold=2, **OPTIONS)
    first.write_split(tmp_path / "split.csv")
    assert SegmentationDataModule(toy(), split_file=tmp_path / "split.csv", **OPTIONS).splits == first.splits


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": [256]}, r"data.size=\[256\]"),
        ({"size": [16, 256]}, "at least 32 px"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"cache": "tape"}, "data.cache=tape: give gpu, ram, disk or none"),
    ],
)
def test_impossible_options_are_named(toy, options, says):
    with pytest.raises(UserError, match=says):
        SegmentationDataModule(toy(), **OPTIONS | options)


def test_a_batch_larger_than_the_split_is_refused_with_both_numbers(toy):
    data = SegmentationDataModule(toy(), **OPTIONS | {"batch_size": 100})
    with pytest.raises(UserError, match=r"data\.batch_size=100 .* training split of 14 images"):
        data.setup("fit")


def test_nothing_to_train_on_or_to_measure_is_refused(toy):
    data = SegmentationDataModule(toy(), **OPTIONS | {"fold": "all"})
    for stage in ("fit", "test"):
        with pytest.raises(UserError, match="no training images"):
            data.setup(stage)


@pytest.mark.parametrize("missing", ["val", "test"])
def test_a_split_without_validation_or_test_is_refused_before_the_training(toy, tmp_path, missing):
    path = tmp_path / "split.csv"
    SegmentationDataModule(toy(), **OPTIONS).write_split(path)
    lines = [line for line in path.read_text().splitlines() if not line.endswith(f",{missing}")]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"no {missing} images .*split\\.csv"):
        SegmentationDataModule(toy(), split_file=path, **OPTIONS).setup("fit")


def test_bad_input_stops_the_training_before_it_starts(toy):
    source = toy()
    bad = [Problem("a.png", "is odd", "Mend it.", fatal=False)] + [Problem("b.png", "is bad", "Mend it.")] * 2
    source.problems = lambda decode=True: iter([] if decode else bad)
    with pytest.raises(UserError, match=r"b\.png: is bad\. Mend it\. \(1 more: `famseg data check`"):
        SegmentationDataModule(source, **OPTIONS).setup("fit")


class Recorder(LightningModule):
    """Remembers what it was given; its weight depends on all of it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, batch["index"].tolist(), batch["image"].sum().item()))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveEverywhere(Callback):
    """A checkpoint at every hook where one may be written while training."""

    def __init__(self, folder):
        self.folder, self.saved = folder, []

    def save(self, trainer, hook):
        path = self.folder / f"{hook}-{trainer.current_epoch}-{trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((path, trainer.global_step))

    def on_train_batch_start(self, trainer, *_):
        self.save(trainer, "batch_start")

    def on_train_batch_end(self, trainer, *_):
        self.save(trainer, "batch_end")

    def on_validation_end(self, trainer, *_):
        self.save(trainer, "validation_end")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch_end")


JITTER = {"augment": jitter}
ON_DEVICE = {"augment": Augmentation(engine="gpu", ultrasound=0.5), "cache": "gpu"}


@pytest.fixture
def roomy(monkeypatch):
    """The CPU counts as a device with room for the images."""
    monkeypatch.setattr("famseg.data.datamodule.room_for", lambda *_: True)


def fit(toy, workers, checkpoint=None, data=JITTER, **options):
    model = Recorder()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=3, enable_model_summary=False, **quiet, **options)
    data = SegmentationDataModule(toy(), num_workers=workers, **OPTIONS | data)
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=False)
    return model.seen, model.weight.item()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("workers", "options", "data"),
    [
        (0, {}, JITTER),
        (0, {"val_check_interval": 1}, JITTER),
        (0, {"limit_val_batches": 0}, JITTER),
        (2, {}, JITTER),
        (0, {}, ON_DEVICE),
        (1, {}, ON_DEVICE),
        (2, {}, ON_DEVICE | {"cache": "ram"}),
    ],
)
def test_a_resumed_run_gets_what_the_unbroken_run_got(toy, tmp_path, roomy, workers, options, data):
    save = SaveEverywhere(tmp_path)
    seen, weight = fit(toy, 0, callbacks=[save], data=data, **options)
    assert len(seen) == 9
    # Starting processes takes long; the ends of epochs are where a loader that starts early goes wrong.
    some = [(path, step) for path, step in save.saved if workers == 0 or step % 3 == 0]
    for checkpoint, step in some:
        assert fit(toy, workers, checkpoint, data=data, **options) == (seen[step:], weight), checkpoint.name


@pytest.mark.filterwarnings("ignore")
def test_wherever_the_images_lie_the_device_makes_the_same_batches(toy, tmp_path, roomy):
    seen = fit(toy, 0, data=ON_DEVICE)
    for cache in ("ram", "none", "disk"):
        assert fit(toy, 0, data=ON_DEVICE | {"cache": cache, "cache_dir": tmp_path}) == seen
    assert fit(toy, 0, data=ON_DEVICE | {"seed": 1}) != seen


@pytest.mark.filterwarnings("ignore")
def test_wherever_the_images_lie_the_loader_makes_the_same_batches(toy, tmp_path):
    seen = fit(toy, 0, data={"augment": Augmentation(), "cache": "none"})
    for cache in ("ram", "disk", "gpu"):  # no GPU here: ram
        assert fit(toy, 0, data={"augment": Augmentation(), "cache": cache, "cache_dir": tmp_path}) == seen


class Batches(LightningModule):
    """Keeps the batches of training and validation."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_batches, self.val_batches = [], []

    def training_step(self, batch, batch_idx):
        self.train_batches.append(batch)
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, batch_idx):
        self.val_batches.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def batches(toy, accelerator="cpu", **options):
    model, data = Batches(), SegmentationDataModule(toy(), **OPTIONS | options)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(accelerator=accelerator, devices=1, max_epochs=1, enable_model_summary=False, **quiet).fit(model, data)
    return model.train_batches + model.val_batches


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("augment", [None, Augmentation(), Augmentation(flip=0, geometric=0, photometric=0)])
def test_both_engines_make_batches_of_the_same_images(toy, roomy, augment):
    on_device = None if augment is None else replace(augment, engine="gpu")
    there = batches(toy, augment=on_device, cache="gpu")
    for one, other in zip(there, batches(toy, augment=augment), strict=True):
        assert set(one) == set(other) == {"image", "mask", "known", "index"}
        for key in one:
            assert (one[key].shape, one[key].dtype) == (other[key].shape, other[key].dtype)
        assert torch.equal(one["known"], other["known"])
        assert torch.equal(one["index"], other["index"])
        if augment is None or not augment.geometric:
            assert torch.equal(one["mask"], other["mask"])
            torch.testing.assert_close(one["image"], other["image"], atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_nothing_lies_on_the_device_after_a_training(toy, roomy):
    """Pictures and graphs; and a later validation, by another trainer, may be on another device."""
    model, data = Batches(), SegmentationDataModule(toy(), cache="gpu", augment=None, **OPTIONS)
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, num_sanity_val_steps=0)
    trainer.fit(model, data)
    assert data._assembly is None
    assert not data.lies_on_device
    made, model.val_batches = model.val_batches, []
    trainer.validate(model, data)
    for one, other in zip(made, model.val_batches, strict=True):
        torch.testing.assert_close(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cache", ["gpu", "ram"])
def test_a_graph_makes_the_batches_that_single_operations_make(toy, monkeypatch, cache):
    options = ON_DEVICE | {"cache": cache, "accelerator": "gpu"}
    ours = batches(toy, **options)
    monkeypatch.setattr("famseg.data.on_device.Recurring", lambda make, _: make)
    for one, other in zip(ours, batches(toy, **options), strict=True):
        for key in ("image", "mask", "known", "index"):
            assert torch.equal(one[key], other[key])


def test_a_set_on_the_gpu_cannot_be_augmented_in_the_loader():
    for augment in (jitter, Augmentation(engine="albumentations")):
        with pytest.raises(UserError, match=r"data\.augment\.engine=gpu, or data\.cache=ram"):
            engine(augment, "gpu", on_gpu=True)


@pytest.mark.parametrize(
    ("wanted", "on_gpu", "who"),
    [
        ("auto", False, "loader"),
        ("auto", True, "device"),
        ("gpu", False, "device"),
        ("albumentations", True, "loader"),
    ],
)
def test_who_augments(wanted, on_gpu, who):
    assert engine(Augmentation(engine=wanted), "ram", on_gpu) == who


def test_a_set_that_does_not_fit_the_gpu_stays_in_ram_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6 * 2**30, 8 * 2**30))
    gpu = torch.device("cuda", 0)
    assert room_for(10000, (256, 384), 3, gpu, 0.25)
    assert not caplog.records
    assert not room_for(12000, (256, 384), 3, gpu, 0.25)
    assert "12000 images take 2.20 GiB, allowed are 2.00 (data.cache_share=0.25" in caplog.text
    assert not room_for(1, (256, 384), 3, torch.device("cpu"), 0.25)
