"""From a network's output to a score, against Gaussian data and Karras' denoiser."""

import pytest
import torch

from ncsn.parametrisation import EDM, Noise, Parametrisation, Score


def network_of(function):
    """A network that is a function of x and of sigma in a shape that broadcasts over x."""
    return lambda x, sigma: function(x, sigma[:, None])


@pytest.mark.parametrize("sigma", [1e-3, 0.5, 50.0])
@pytest.mark.parametrize(
    ("parametrisation", "function"),
    [
        (Score(), lambda x, s: -(x - 0.3) / (0.49 + s**2)),
        (Noise(), lambda x, s: s * (x - 0.3) / (0.49 + s**2)),
        (EDM(), lambda x, s: torch.zeros_like(x)),
    ],
    ids=["score", "noise", "edm"],
)
def test_all_parametrisations_can_express_the_same_gaussian_score(
    parametrisation, function, sigma
):
    # Data N(0.3, 0.7²): the score of the noised data is -(x - 0.3) / (0.49 + sigma²), for which
    # EDM's network has to return zero.
    x, levels = torch.randn(100, 2) * (0.7 + sigma), torch.full((100,), sigma)
    statistics = torch.tensor(0.3), torch.tensor(0.7)
    score = parametrisation(network_of(function), x, levels, *statistics)
    torch.testing.assert_close(score, -(x - 0.3) / (0.49 + sigma**2), rtol=1e-4, atol=1e-6)


def test_edm_is_karras_denoiser():
    # Equation 7 with the coefficients of table 1, for data of mean zero.
    x, sigma, std = torch.randn(50, 2), torch.rand(50) + 0.2, torch.tensor(0.5)
    network = network_of(lambda x, s: x.sin() + s)
    v = (sigma**2 + std**2)[:, None]
    c_skip, c_out = std**2 / v, sigma[:, None] * std / v.sqrt()
    denoised = c_skip * x + c_out * network(x / v.sqrt(), sigma)
    score = EDM()(network, x, sigma, torch.tensor(0.0), std)
    torch.testing.assert_close(x + sigma[:, None] ** 2 * score, denoised, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 100.0])
def test_edm_gives_its_network_inputs_of_mean_zero_and_variance_one(sigma):
    n, mean, std, inputs = 100_000, torch.tensor(3.0), torch.tensor(0.5), []

    def network(x, sigma):
        inputs.append(x)
        return x

    x = mean + torch.randn(n, 1) * (std**2 + sigma**2).sqrt()
    EDM()(network, x, torch.full((n,), sigma), mean, std)
    assert abs(inputs[0].mean()) < 5 / n**0.5
    assert abs(inputs[0].var() - 1) < 5 * (2 / n) ** 0.5


def test_a_parametrisation_without_a_formula_is_refused():
    with pytest.raises(TypeError, match="abstract"):
        Parametrisation()
