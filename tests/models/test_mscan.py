"""MSCAN is written out here with SegNeXt's names, small: its weights must give our blocks, and SegNeXt's encoder, the
same function.
"""

import logging

import pytest
import torch
import torch.nn.functional as F
from model_tester import picture
from torch import nn

from famseg.errors import UserError
from famseg.models import FAMSeg, SegNeXt
from famseg.models.mscan import load_mscan

OPTIONS = {"widths": (8, 16, 24, 32), "depths": (2, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "head_width": 8}


def tree(**children):
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def depthwise(channels, *kernel):
    return nn.Conv2d(channels, channels, kernel, padding=[k // 2 for k in kernel], groups=channels)


class Block(nn.Module):
    def __init__(self, c, ratio):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        strips = {"conv0": depthwise(c, 5, 5), "conv3": nn.Conv2d(c, c, 1)}
        for i, k in enumerate((7, 11, 21)):
            strips |= {f"conv{i}_1": depthwise(c, 1, k), f"conv{i}_2": depthwise(c, k, 1)}
        proj_1, proj_2 = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        self.attn = tree(proj_1=proj_1, spatial_gating_unit=tree(**strips), proj_2=proj_2)
        hidden = tree(dwconv=depthwise(c * ratio, 3, 3))
        self.mlp = tree(fc1=nn.Conv2d(c, c * ratio, 1), dwconv=hidden, fc2=nn.Conv2d(c * ratio, c, 1))
        self.layer_scale_1, self.layer_scale_2 = nn.Parameter(torch.randn(c)), nn.Parameter(torch.randn(c))

    def forward(self, x):
        n, unit = self.norm1(x), self.attn.spatial_gating_unit
        u = F.gelu(self.attn.proj_1(n))
        a = unit.conv0(u)
        pairs = [(unit.conv0_1, unit.conv0_2), (unit.conv1_1, unit.conv1_2), (unit.conv2_1, unit.conv2_2)]
        gate = unit.conv3(a + sum(column(row(a)) for row, column in pairs))
        x = x + self.layer_scale_1.view(-1, 1, 1) * (self.attn.proj_2(gate * u) + n)
        hidden = F.gelu(self.mlp.dwconv.dwconv(self.mlp.fc1(self.norm2(x))))
        return x + self.layer_scale_2.view(-1, 1, 1) * self.mlp.fc2(hidden)


def mscan(widths=(8, 16, 24, 32), depths=(2, 1, 1, 1), ratio=2):
    torch.manual_seed(0)
    half = widths[0] // 2
    stem = [nn.Conv2d(3, half, 3, 2, 1), nn.BatchNorm2d(half), nn.GELU()]
    stem += [nn.Conv2d(half, widths[0], 3, 2, 1), nn.BatchNorm2d(widths[0])]
    parts = {"patch_embed1": tree(proj=nn.Sequential(*stem)), "head": nn.Linear(widths[-1], 10)}
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        parts[f"block{i + 1}"] = nn.ModuleList(Block(width, ratio) for _ in range(depth))
        parts[f"norm{i + 1}"] = nn.LayerNorm(width)
        if i:
            embed = tree(proj=nn.Conv2d(widths[i - 1], width, 3, 2, 1), norm=nn.BatchNorm2d(width))
            parts[f"patch_embed{i + 1}"] = embed
    model = tree(**parts)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def published(tmp_path):
    """The network and its file, wrapped as SegNeXt's are."""
    model = mscan()
    torch.save({"state_dict": model.state_dict(), "meta": {"epoch": 300}}, tmp_path / "mscan.pth")
    return model, tmp_path / "mscan.pth"


def test_blocks_and_stem_compute_what_mscan_computes(published):
    theirs, path = published
    ours = FAMSeg(in_channels=3, strip_scan="sequential", weights=path, **OPTIONS).eval().encoder
    image = picture(2, 3, 64, 64)
    with torch.no_grad():
        x = ours.stem(image)
        torch.testing.assert_close(x, theirs.patch_embed1.proj(image), rtol=1e-4, atol=1e-4)
        for block, other in zip(ours.stages[0][1:3], theirs.block1, strict=True):
            torch.testing.assert_close(block(x), other(x), rtol=1e-4, atol=1e-4)
        deep = torch.randn(1, 32, 4, 4)
        torch.testing.assert_close(ours.stages[3][2](deep), theirs.block4[0](deep), rtol=1e-4, atol=1e-4)


def test_one_channel_sees_a_grey_picture_as_three_did(published):
    theirs, path = published
    ours = FAMSeg(weights=path, **OPTIONS).eval().encoder
    grey = picture(2, 1, 64, 64)
    with torch.no_grad():
        expected = theirs.patch_embed1.proj(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours.stem(grey), expected, rtol=1e-4, atol=1e-4)


def maps(mscan, image):
    """The encoder's maps: what each stage's layer norm gives goes on to the next stage."""
    x, levels = mscan.patch_embed1.proj(image), []
    for i in (1, 2, 3, 4):
        if i > 1:
            embed = getattr(mscan, f"patch_embed{i}")
            x = embed.norm(embed.proj(x))
        for block in getattr(mscan, f"block{i}"):
            x = block(x)
        x = getattr(mscan, f"norm{i}")(x.movedim(1, -1)).movedim(-1, 1)
        levels.append(x)
    return levels


@pytest.mark.parametrize("in_channels", [1, 3])
def test_segnext_takes_over_all_of_mscan(published, caplog, in_channels):
    theirs, path = published
    theirs.norm2.weight.data.uniform_(0.5, 2)
    torch.save(theirs.state_dict(), path)
    options = {key: OPTIONS[key] for key in ("widths", "depths", "mlp_ratios")}
    ours = SegNeXt(in_channels, **options).eval().encoder
    loaded = load_mscan(ours, path)
    assert loaded.missing == []
    assert {name.split(".")[0] for name in loaded.unused} == {"head"}
    image = picture(2, in_channels, 64, 64)
    with torch.no_grad():
        expected = maps(theirs, image.expand(-1, 3, -1, -1))
        for a, b in zip(ours(image), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_reports_what_was_loaded_and_what_not(published, caplog):
    _, path = published
    encoder = FAMSeg(**OPTIONS).encoder
    with caplog.at_level(logging.INFO, logger="famseg"):
        loaded = load_mscan(encoder, path)
    names = set(encoder.state_dict())
    assert set(loaded.filled) | set(loaded.missing) == names
    assert {name.split(".")[0] for name in loaded.missing} == {"stages"}
    assert not any("attention" in name for name in loaded.missing)
    unused = {name.split(".")[0] for name in loaded.unused}
    assert unused == {"head", "norm1", "norm2", "norm3", "norm4", "patch_embed2", "patch_embed3", "patch_embed4"}
    assert f"{len(loaded.filled)} encoder tensors loaded" in caplog.text
    assert "(stages.0, stages.1, stages.2, stages.3)" in caplog.text


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_prefixes(tmp_path, prefix):
    torch.save({prefix + name: value for name, value in mscan().state_dict().items()}, tmp_path / "weights.pth")
    encoder = FAMSeg(**OPTIONS).encoder
    assert len(load_mscan(encoder, tmp_path / "weights.pth").filled) > 100


def test_the_weights_of_another_size(tmp_path):
    torch.save(mscan(widths=(16, 16, 24, 32)).state_dict(), tmp_path / "mscan_s.pth")
    with pytest.raises(UserError, match=r"mscan_s.pth is of another size: .* has shape .*, the model needs"):
        FAMSeg(weights=tmp_path / "mscan_s.pth", **OPTIONS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"not a file of PyTorch", "is no file of PyTorch weights"),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "holds no MSCAN weights"),
        ([1, 2, 3], "holds no table of weights"),
    ],
)
def test_wrong_files(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"model.weights=.*weights.pth.*{message}"):
        FAMSeg(weights=path, **OPTIONS)


def test_imagenet_fetches_the_file_of_the_size(monkeypatch):
    asked = []

    def fetch(url, **options):
        asked.append((url, options["check_hash"]))
        return mscan((32, 64, 160, 256), (3, 3, 5, 2)).state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    with pytest.raises(UserError, match="of another size"):  # the ratios of the MLPs are not those of T here
        FAMSeg(weights="imagenet")
    assert asked[0][0].endswith("segnext/mscan_t_20230227-119e8c9f.pth")
    assert asked[0][1] is True


def test_imagenet_without_network(monkeypatch):
    def fail(url, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=r"cannot fetch .*mscan_t.*no route to host.*give its path"):
        FAMSeg(weights="imagenet")


def test_imagenet_knows_no_size_n():
    with pytest.raises(UserError, match=r"none for widths \(8, 16, 24, 32\), depths \(2, 1, 1, 1\); use T, S, B or L"):
        FAMSeg(weights="imagenet", **OPTIONS)
