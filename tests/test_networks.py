import pytest
import torch

from ncsn.networks import MLP, ConditionedResNet, UNet
from ncsn.networks.embeddings import NoiseLevelTable
from ncsn.networks.preconditioning import parametrised_score
from ncsn.noise import geometric_noise_levels

NETWORKS = {
    "mlp": (MLP(dim=3, hidden_dim=16), (3,)),
    "resnet": (ConditionedResNet(filters=8, num_blocks=2), (1, 12, 12)),
    "resnet rgb": (ConditionedResNet(channels=3, filters=8, num_blocks=1), (3, 9, 7)),
    "unet": (UNet(filters=8), (1, 28, 28)),
    "unet 32": (UNet(filters=8, multipliers=(1, 1, 2)), (1, 32, 32)),
    "unet odd": (UNet(channels=3, filters=8, multipliers=(1, 2, 2), patch_size=1), (3, 7, 7)),
}


@pytest.mark.parametrize(("network", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_output_has_the_shape_of_the_input_and_examples_are_independent(network, shape):
    for parameter in network.parameters():  # the U-Net starts as zero
        torch.nn.init.normal_(parameter, std=0.1)
    x, sigma = torch.randn(4, *shape), torch.tensor([0.01, 0.1, 0.5, 1.0])
    out = network(x, sigma)
    assert out.shape == x.shape
    torch.testing.assert_close(out[2:3], network(x[2:3], sigma[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("network", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_two_noise_levels_give_different_outputs(network, shape):
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, *shape).expand(2, *shape)
    first, second = network(x, torch.tensor([0.1, 0.2]))
    assert not torch.allclose(first, second)


def test_table_gives_its_rows_on_the_ladder_and_interpolates_in_log_sigma_between():
    levels = geometric_noise_levels(5.0, 0.01, 6)
    table = NoiseLevelTable(4, levels)
    rows = table.table.weight
    torch.testing.assert_close(table(levels), rows, rtol=1e-4, atol=1e-4)
    middle = (levels[:-1] * levels[1:]).sqrt()
    torch.testing.assert_close(table(middle), (rows[:-1] + rows[1:]) / 2, rtol=1e-4, atol=1e-4)
    outside = table(torch.tensor([1e3, 1e-6]))
    torch.testing.assert_close(outside, rows[[0, -1]])


def test_table_of_one_level_has_one_row():
    table = NoiseLevelTable(4, torch.tensor([0.1]))
    torch.testing.assert_close(table(torch.tensor([0.1, 3.0])), table.table.weight.expand(2, 4))


def test_residual_stream_stays_in_bfloat16_under_autocast():
    network = ConditionedResNet(filters=8, num_blocks=2)
    seen = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.5]))
    assert seen == [torch.bfloat16] * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(hidden_dim=0),
        lambda: ConditionedResNet(num_blocks=0),
        lambda: UNet(filters=12),
        lambda: UNet(multipliers=()),
    ],
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(ValueError, match=r"of at least 1|multiple of 8"):
        make()


class Fixed(torch.nn.Module):
    """Returns a given function of (x, sigma)."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, sigma):
        return self.function(x, sigma[:, None])


@pytest.mark.parametrize("sigma", [1e-3, 0.5, 50.0])
def test_all_parametrisations_can_express_the_same_gaussian_score(sigma):
    # Data N(0.3, 0.7²): the score of the noised data is -(x - 0.3) / (0.49 + sigma²), for which
    # EDM's network has to return zero.
    x, levels = torch.randn(100, 2) * (0.7 + sigma), torch.full((100,), sigma)
    exact = -(x - 0.3) / (0.49 + sigma**2)
    networks = {
        "score": lambda x, s: -(x - 0.3) / (0.49 + s**2),
        "noise": lambda x, s: s * (x - 0.3) / (0.49 + s**2),
        "edm": lambda x, s: torch.zeros_like(x),
    }
    for name, function in networks.items():
        score = parametrised_score(Fixed(function), x, levels, name, data_mean=0.3, data_std=0.7)
        torch.testing.assert_close(score, exact, rtol=1e-4, atol=1e-6)


def test_edm_is_karras_denoiser():
    # Equation 7 with the coefficients of table 1, for data of mean zero.
    x, sigma, std = torch.randn(50, 2), torch.rand(50) + 0.2, 0.5
    network = Fixed(lambda x, s: x.sin() + s)
    v = (sigma**2 + std**2)[:, None]
    c_skip, c_out = std**2 / v, sigma[:, None] * std / v.sqrt()
    denoised = c_skip * x + c_out * network(x / v.sqrt(), sigma)
    score = parametrised_score(network, x, sigma, "edm", data_std=std)
    torch.testing.assert_close(x + sigma[:, None] ** 2 * score, denoised, rtol=1e-4, atol=1e-5)


def test_unknown_parametrisation_is_refused():
    with pytest.raises(ValueError, match="'epsilon'"):
        parametrised_score(Fixed(lambda x, s: x), torch.ones(1, 2), torch.ones(1), "epsilon")
