import pytest
import torch
from model_tester import lively, picture
from torch.utils.flop_counter import FlopCounterMode

from famseg.errors import UserError
from famseg.losses import CrossEntropyDice, supervised
from famseg.models import BiSeNetV2


def test_boosters_speak_in_training_only():
    model = BiSeNetV2(num_classes=5)
    outputs = model.train()(picture(2, 1, 70, 90))
    assert [output.shape for output in outputs] == [(2, 5, 70, 90)] * 5
    assert model.eval()(picture(1, 1, 70, 90)).shape == (1, 5, 70, 90)
    assert BiSeNetV2(booster_width=0).train()(picture(2, 1, 64, 64)).shape == (2, 3, 64, 64)


def test_the_loss_sees_the_boosters():
    torch.manual_seed(0)
    model = BiSeNetV2().train()
    outputs = model(picture(2, 1, 64, 64))
    mask, known = torch.zeros(2, 64, 64, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    loss = CrossEntropyDice()
    expected = loss(outputs[0], mask) + 0.25 * sum(loss(output, mask) for output in outputs[1:])
    whole = supervised(loss, outputs, mask, known, auxiliary_weight=0.25)
    assert whole.item() == pytest.approx(expected.item(), rel=1e-6)
    whole.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.boosters.parameters())


def test_boosters_cost_nothing_in_evaluation():
    """Counted without them, and the same logits without them."""
    model = lively(BiSeNetV2())
    plain = BiSeNetV2(booster_width=0).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("boosters")})
    with torch.no_grad():
        assert torch.equal(plain(picture(1, 1, 64, 96)), model(picture(1, 1, 64, 96)))
    assert sum(p.numel() for p in plain.parameters()) == pytest.approx(3.34e6, abs=5e3)
    assert sum(p.numel() for p in model.boosters.parameters()) == pytest.approx(0.28e6, abs=5e3)


@pytest.mark.parametrize(("head_width", "billions"), [(1024, 24.6), (256, 17.2)])
def test_multiply_adds_of_the_paper_s_input(head_width, billions):
    """docs/models.md sets them beside the paper's 21.15 GFLOPs."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        BiSeNetV2(3, 19, head_width=head_width).eval()(torch.empty(1, 3, 512, 1024))
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.05)


def test_one_image_cannot_train():
    with pytest.raises(UserError, match=r"BiSeNet V2 .* data.batch_size=2"):
        BiSeNetV2().train()(picture(1, 1, 64, 64))


def test_frozen_logits():
    """Class by class, three pixels of a row, of weights from a formula."""
    model = lively(BiSeNetV2().double())
    with torch.no_grad():
        logits = model(picture(1, 1, 70, 90).double())
    expected = torch.tensor([-1.46803, -0.84985, -0.36179, -5.92107, -4.69229, -3.72857, -8.84789, -7.32956, -6.14195])
    torch.testing.assert_close(logits[0, :, 40, 10::35].flatten(), expected.double(), rtol=1e-4, atol=1e-4)
