"""The feature networks: what they know, and which weights are accepted."""

import pytest
import torch

from ncsn.data import DigitsDataModule, MNISTDataModule
from ncsn.evaluation.features import extract_features, load_features, network
from ncsn.evaluation.metrics import load_inception


@pytest.mark.parametrize(("name", "accuracy"), [("digits", 0.985), ("mnist", 0.993)])
def test_a_network_knows_its_data(name, accuracy, request):
    if name == "digits":
        data = DigitsDataModule()
    else:
        data = MNISTDataModule(request.getfixturevalue("mnist_dir"))
    data.setup("test")
    test = data.splits["test"]
    logits = extract_features(load_features(name), test.data).logits
    assert (logits.argmax(1) == test.labels).float().mean() >= accuracy


def test_weights_are_small_and_others_are_refused(tmp_path, monkeypatch):
    for name in network.SHIPPED:
        assert network.weights_path(name).stat().st_size < 2**20
    data = bytearray(network.weights_path("digits").read_bytes())
    data[-1] ^= 1
    (tmp_path / "digits").write_bytes(data)
    monkeypatch.setattr(network, "weights_path", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match="SHA-256"):
        load_features("digits")


def test_loading_draws_no_random_weights_and_freezes_those_that_are_loaded():
    before = torch.get_rng_state()
    loaded = load_features("mnist")
    assert torch.equal(before, torch.get_rng_state())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.title == "MNIST features v1"


def test_images_of_another_size_are_resized():
    mnist = load_features("mnist")
    images = torch.randint(0, 255, (3, 1, 32, 32), dtype=torch.uint8)
    assert extract_features(mnist, images).features.shape == (3, mnist.num_features)


def test_inceptions_fid_says_what_it_needs():
    from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

    if _TORCH_FIDELITY_AVAILABLE:
        pytest.skip("torch-fidelity is installed")
    with pytest.raises(ImportError, match="pip install torch-fidelity"):
        load_inception()
