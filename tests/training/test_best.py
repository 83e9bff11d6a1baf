"""Which epoch a run's folder means."""

import shutil

import pytest
import torch

from famseg import checkpoint
from famseg.errors import UserError


def epoch(path):
    return torch.load(path, weights_only=True)["epoch"]


@pytest.fixture
def scored(fit, monkeypatch):
    """Train with validation scores of the test's choosing, one per epoch."""

    def run(values, *arguments, **options):
        def log(task):
            task.log(options.get("monitor", "val/miou"), torch.tensor(values[task.current_epoch]))
            task.val_loss.reset()
            task.confusion.reset()

        monkeypatch.setattr("famseg.task.SegmentationTask.on_validation_epoch_end", log)
        return fit(*arguments, epochs=len(values), **options)

    return run


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_run_folder_means_its_best_epoch_however_many_are_kept(scored, tmp_path, caplog, keep):
    trainer, _ = scored([0.1, 0.4, 0.3, 0.2], keep_best=keep)
    assert epoch(checkpoint.resolve(tmp_path / "run")) == 1 == epoch(trainer.checkpoint_callback.best_model_path)
    assert checkpoint.resolve(tmp_path / "run").name == "best.ckpt"
    ranked = {path.name for path in (tmp_path / "run" / "checkpoints").glob("best-*")}
    assert ranked == ({f"best-epoch=00{each}.ckpt" for each in (1, 2, 3)[:keep]} if keep > 1 else set())
    assert "is used" not in caplog.text


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("folder", ["run", "moved"])
def test_the_best_epoch_is_kept_across_a_resume(scored, fit, tmp_path, folder, keep):
    """Also where the folder was moved between the two."""
    values = [0.1, 0.4, 0.3, 0.2]
    with pytest.raises(fit.Stopped):
        scored(values, stop_after=2, keep_best=keep)
    shutil.move(tmp_path / "run", tmp_path / folder)
    last = tmp_path / folder / "checkpoints" / "last.ckpt"
    trainer, _ = scored(values, folder, ckpt_path=str(last), keep_best=keep)
    assert epoch(checkpoint.resolve(tmp_path / folder)) == 1 == epoch(trainer.checkpoint_callback.best_model_path)
    assert trainer.checkpoint_callback.best_model_score == pytest.approx(0.4)
    names = {path.name for path in (tmp_path / folder / "checkpoints").glob("best-*")}
    assert names == ({"best-epoch=001.ckpt", "best-epoch=002.ckpt"} if keep > 1 else set())


@pytest.mark.parametrize("values", [[0.1, 0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.4, 0.3, 0.2], [0.2, 0.3, 0.4, 0.1, 0.5]])
@pytest.mark.parametrize(("keep", "folder"), [(1, "run"), (2, "moved")])
def test_a_best_checkpoint_newer_than_the_last_one(scored, fit, tmp_path, values, keep, folder):
    """Of epochs that are lost, because last.ckpt was not written after them; the first was the best, or is gone."""
    whole, _ = scored(values, "whole", keep_best=keep)
    with pytest.raises(fit.Stopped):
        scored(values, stop_after=4, keep_best=keep, save_every_s=1e9)
    shutil.move(tmp_path / "run", tmp_path / folder)
    last = tmp_path / folder / "checkpoints" / "last.ckpt"
    assert epoch(last) == 0 < epoch(last.with_name("best.ckpt"))
    resumed, _ = scored(values, folder, ckpt_path=str(last), keep_best=keep)
    assert resumed.checkpoint_callback.score == whole.checkpoint_callback.score
    names = [{path.name for path in (tmp_path / each / "checkpoints").glob("best*")} for each in ("whole", folder)]
    assert names[0] == names[1]
    for name in names[0]:
        states = [torch.load(tmp_path / each / "checkpoints" / name)["state_dict"] for each in ("whole", folder)]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(
    ("monitor", "best", "score"), [("val/loss", 2, -0.1), ("val/miou", 1, 0.4), ("val/iou_fl", 1, 0.4)]
)
def test_the_best_epoch_has_the_lowest_loss_or_the_highest_of_other_scores(scored, tmp_path, monitor, best, score):
    trainer, _ = scored([0.2, 0.4, 0.1, 0.3], monitor=monitor)
    assert epoch(checkpoint.resolve(tmp_path / "run")) == best
    assert trainer.checkpoint_callback.score == pytest.approx(score)


@pytest.mark.parametrize("monitor", ["val/nosuch", "test/hd95_mm_fb", "miou"])
def test_a_score_that_is_not_there_is_refused_before_the_first_epoch(fit, tmp_path, monitor):
    with pytest.raises(UserError, match=rf"monitor={monitor}.*val/loss, val/miou, val/iou_bg, .*val/dice_fb\.$"):
        fit(monitor=monitor)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_scores_that_can_be_monitored_are_those_of_the_table(fit, tmp_path):
    _, task = fit(epochs=1)
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert sorted(task.validation_scores) == sorted(name for name in header if name.startswith("val/"))


def test_without_its_best_checkpoint_a_run_chooses_among_the_epochs_that_follow(scored, fit, tmp_path, caplog):
    values = [0.1, 0.4, 0.3, 0.2]
    with pytest.raises(fit.Stopped):
        scored(values, stop_after=2)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    scored(values, ckpt_path=str(tmp_path / "run" / "checkpoints" / "last.ckpt"))
    assert "best.ckpt is gone" in caplog.text
    assert epoch(checkpoint.resolve(tmp_path / "run")) == 2


def test_a_folder_without_a_best_checkpoint_says_that_it_means_the_last_epoch(tmp_path, caplog):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert checkpoint.resolve(tmp_path).name == "last.ckpt"
    assert "last.ckpt is used" in caplog.text
