"""From a folder or a file to a network: what is refused, and what is taken over."""

import pytest
import torch

from famseg import checkpoint
from famseg.errors import UserError
from famseg.models import FAMSeg

SIZE = {"widths": [16, 16, 16, 32], "depths": [1, 1, 1, 1], "decoder_widths": [32, 16, 16, 16, 16, 16]}
SIZE |= {"head_width": 16, "context_width": 32, "level_width": 16}


def write(path, num_classes=2, **changes):
    torch.manual_seed(0)
    model = FAMSeg(num_classes=num_classes, **SIZE)
    data = {"classes": {"BG": 0, "FB": 2}, "size": [32, 48], "resize": "letterbox", "mean": 0.2, "std": 0.1}
    description = {"_target_": "famseg.models.FAMSeg", "num_classes": num_classes, **SIZE}
    metadata = {"format": 1, "version": "0", "model": description, "data": data} | changes
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"famseg": metadata, "state_dict": state}, path)
    return model.eval()


def test_a_run_folder_means_its_best_checkpoint(tmp_path):
    model = write(tmp_path / "run" / "checkpoints" / "best.ckpt")
    predictor = checkpoint.load_predictor(tmp_path / "run")
    image = torch.randn(1, 1, 32, 48)
    assert torch.equal(predictor.model(image), model(image))
    assert (predictor.size, predictor.mean, predictor.classes) == ((32, 48), 0.2, {"BG": 0, "FB": 2})


def test_half_precision_weights_are_read(tmp_path):
    write(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt")
    content["state_dict"] = {k: v.half() if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    torch.save(content, tmp_path / "half.ckpt")
    assert next(checkpoint.load_predictor(tmp_path / "half.ckpt").model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable checkpoint"),
        (b"not a zip", "not a readable checkpoint"),
    ],
)
def test_damaged_file(tmp_path, content, words):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        checkpoint.load(tmp_path / "a.ckpt")


def test_a_torchscript_file_is_told_of_what_is_taken(tmp_path, recwarn):
    torch.jit.trace(torch.nn.Identity(), torch.zeros(1)).save(tmp_path / "a.pt")
    recwarn.clear()
    with pytest.raises(UserError, match=r"a\.pt: .* Give a run's folder, a checkpoint or a \.safetensors file"):
        checkpoint.load(tmp_path / "a.pt")
    assert not recwarn.list


def test_truncated_file(tmp_path):
    write(tmp_path / "a.ckpt")
    whole = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.ckpt: not a readable checkpoint"):
        checkpoint.load(tmp_path / "a.ckpt")


def test_foreign_checkpoint(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of FAMSeg"):
        checkpoint.load(tmp_path / "a.ckpt")


def test_a_checkpoint_cannot_call_other_code(tmp_path):
    write(tmp_path / "a.ckpt", model={"_target_": "os.system", "command": "true"})
    with pytest.raises(UserError, match=r"os\.system.*only models of famseg\.models"):
        checkpoint.load_predictor(tmp_path / "a.ckpt")


def test_networks_of_modules_that_the_user_trusts(tmp_path, monkeypatch):
    write(tmp_path / "a.ckpt", model={"_target_": "torch.nn.Identity"})
    for modules in ("", "torch.n", "torch.nn.functional", " , "):
        monkeypatch.setenv("FAMSEG_MODELS", modules)
        with pytest.raises(UserError, match=r"set the environment variable FAMSEG_MODELS=torch\.nn\.$"):
            checkpoint.build(checkpoint.load(tmp_path / "a.ckpt")["famseg"])
    monkeypatch.setenv("FAMSEG_MODELS", "mine, torch")
    assert isinstance(checkpoint.build(checkpoint.load(tmp_path / "a.ckpt")["famseg"]), torch.nn.Identity)


def test_arguments_of_another_version(tmp_path):
    write(tmp_path / "a.ckpt", model={"_target_": "famseg.models.FAMSeg", "wings": 2})
    with pytest.raises(UserError, match="wings"):
        checkpoint.load_predictor(tmp_path / "a.ckpt")


@pytest.mark.parametrize("change", [{"widths": [16, 16, 32, 32]}, {"fusion": "none"}, {"mamba": False}])
def test_weights_of_another_architecture(tmp_path, change):
    description = {"_target_": "famseg.models.FAMSeg", "num_classes": 2, **SIZE, **change}
    write(tmp_path / "a.ckpt", model=description)
    with pytest.raises(UserError, match=r"a\.ckpt: its weights do not fit the model of this version \(written by 0\)"):
        checkpoint.load_predictor(tmp_path / "a.ckpt")


def test_a_size_that_cannot_be_built(tmp_path):
    write(tmp_path / "a.ckpt", model={"_target_": "famseg.models.FAMSeg", **SIZE, "head_width": 5})
    with pytest.raises(UserError, match=r"model.head_width=5 does not divide"):
        checkpoint.load_predictor(tmp_path / "a.ckpt")


def test_fine_tuning_keeps_all_but_a_head_of_other_classes(tmp_path, caplog):
    source = write(tmp_path / "a.ckpt", num_classes=2)
    torch.manual_seed(1)
    model = FAMSeg(num_classes=3, **SIZE)
    with caplog.at_level("INFO"):
        checkpoint.initialise(model, tmp_path / "a.ckpt")
    before = source.state_dict()
    differ = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert differ == ["decoder.head.weight", "decoder.head.bias"]
    assert "decoder.head.bias" in caplog.text


def test_fine_tuning_from_another_model_is_refused(tmp_path):
    write(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="Use a checkpoint of this model"):
        checkpoint.initialise(torch.nn.Linear(2, 2), tmp_path / "a.ckpt")
