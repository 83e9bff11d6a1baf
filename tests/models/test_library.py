"""The wrapper around the library's networks: its weights, its messages."""

import pytest
import timm
import torch
from model_tester import picture
from safetensors.torch import save_file

from famseg.errors import UserError
from famseg.models import LibraryModel

ENCODER = "mobilenetv3_small_050"  # small and quick to build


@pytest.fixture
def published():
    """What timm would offer for the encoder."""
    torch.manual_seed(1)
    model = timm.create_model(ENCODER)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def assert_encodes_as(model, published):
    """A grey picture gives the maps that three equal colours give the published network."""
    grey = picture(2, 1, 64, 64)
    reference = timm.create_model(ENCODER, features_only=True).eval()
    reference.load_state_dict(published.state_dict(), strict=False)
    with torch.no_grad():
        ours = model.eval().network.encoder(grey)[1:]
        theirs = reference(grey.expand(-1, 3, -1, -1))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_of_weights(published, tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    state = published.state_dict()
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    assert_encodes_as(LibraryModel(ENCODER, "fpn", weights=path), published)


def test_imagenet_is_what_timm_fetches(published, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: dict(published.state_dict()))
    assert_encodes_as(LibraryModel(ENCODER, "unet", weights="imagenet"), published)


def test_imagenet_without_network(monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    message = rf"model.weights=imagenet: .* {ENCODER} .*no route to host.*timm/{ENCODER}.*model.weights=PATH"
    with pytest.raises(UserError, match=message):
        LibraryModel(ENCODER, "fpn", weights="imagenet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"not a file of PyTorch", "is no file of PyTorch or safetensors weights"),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, f"holds 0 of the .* tensors of {ENCODER}"),
        ([1, 2, 3], "is no file of PyTorch or safetensors weights"),
    ],
)
def test_wrong_files(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"model.weights=.*weights.pth.*{message}"):
        LibraryModel(ENCODER, "fpn", weights=path)


def test_unknown_names():
    with pytest.raises(UserError, match=r"model.encoder=resnet35 is unknown to timm"):
        LibraryModel("resnet35", "unet")
    with pytest.raises(UserError, match=r"model.decoder='pspnet' is unknown; choose one of unet, upernet, fpn"):
        LibraryModel(ENCODER, "pspnet")
    with pytest.raises(UserError, match=r"model.encoder=vit_tiny_patch16_224 does not go with model.decoder=fpn"):
        LibraryModel("vit_tiny_patch16_224", "fpn")


def test_pooled_batch_norms_need_two_images():
    """UPerNet's pyramid pools to one pixel: one image has no variance there. Evaluation does not mind."""
    model = LibraryModel("resnet10t", "upernet").train()
    with pytest.raises(UserError, match=r"UPerNet .* cannot train on one image at a time: data.batch_size=2"):
        model(picture(1, 1, 64, 64))
    assert model(picture(2, 1, 32, 32)).shape == (2, 3, 32, 32)
    assert model.eval()(picture(1, 1, 64, 64)).isfinite().all()
