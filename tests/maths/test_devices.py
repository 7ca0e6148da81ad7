"""Sampling and losses on a simulated GPU.

Tensors have a device and a shape, but no values: mixing devices is an error, and so is reading a
value on the host, which would wait for a real GPU.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import ncsn.sampling
from ncsn.exact import Empirical
from ncsn.modules import NCSN
from ncsn.networks import MLP, ConditionedResNet, UNet
from ncsn.parametrisation import EDM
from ncsn.sampling import DPMSolver, MetropolisLangevin

IMAGES = (1, 8, 8)
NETWORKS = {
    "U-Net": (lambda: UNet(filters=8), IMAGES),
    "with classes": (lambda: UNet(filters=8, num_classes=3), IMAGES),
    "ResNet": (lambda: ConditionedResNet(filters=8), IMAGES),
    "MLP": (lambda: MLP(hidden_dim=8), (2,)),
}
SAMPLERS = {
    name: getattr(ncsn.sampling, name)
    for name in (
        *("Ancestral", "ConsistentAnnealedSampling", "DPMSolver", "Euler", "Heun", "IPNDM"),
        *("PredictorCorrector", "Resampling", "SASolver"),
    )
} | {
    "Langevin": lambda: ncsn.sampling.Langevin(num_steps=3),
    "AnnealedLangevin": lambda: ncsn.sampling.AnnealedLangevin(steps_per_level=2),
    "MetropolisLangevin": lambda: MetropolisLangevin(steps_per_level=2),
    "SDE-DPM-Solver++": lambda: DPMSolver(5, eta=2.0),
}


@pytest.fixture
def gpu():
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        yield mode


def on_gpu(module):
    """Replace the tensors of a module by some without values."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, old in tensors.items():
                if old is not None:
                    new = torch.empty(old.shape, dtype=old.dtype, device="cuda")
                    tensors[name] = nn.Parameter(new) if isinstance(old, nn.Parameter) else new
    module._device = torch.device("cuda")
    return module


def model(name):
    """A model on the GPU, and its ladder on the CPU."""
    make, shape = NETWORKS[name]
    ladder = {"sigma_max": 5.0, "num_levels": 4, "level_density": (0.0, 1.0)}
    with torch.utils._python_dispatch._disable_current_modes():
        module = NCSN(make(), **ladder, data_shape=shape, parametrisation=EDM())
        levels = module.noise_levels.clone()
    return on_gpu(module), levels


def test_the_simulated_gpu_refuses_what_is_tested(gpu):
    x = torch.zeros(2, device="cuda")
    with pytest.raises(RuntimeError, match="device"):
        x + torch.zeros(2)
    with pytest.raises(DataDependentOutputException):
        bool((x > 0).any())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_loss_stays_on_the_gpu(name, gpu):
    module, _ = model(name)
    x, sigma = torch.randn(6, *module.data_shape, device="cuda"), module.sample_noise_levels(6)
    loss = module.loss(x, sigma, torch.zeros(6, dtype=torch.long, device="cuda"))
    assert (loss.shape, loss.device.type) == ((6,), "cuda")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_stays_on_the_gpu_and_does_not_wait_for_it(sampler, name, gpu):
    module, levels = model(name)
    sampler = SAMPLERS[sampler]()
    with torch.utils._python_dispatch._disable_current_modes():
        path = sampler.path(levels)
    sampler.path = lambda _: path  # read from the ladder once, before the steps
    label = torch.zeros(6, dtype=torch.long, device="cuda")
    samples = module.sample(6, label, sampler=sampler)
    assert (samples.shape, samples.device.type) == ((6, *module.data_shape), "cuda")


def test_the_tensors_of_an_exact_density_are_where_the_data_is():
    buffers = dict(Empirical(torch.zeros(5, 2, device="meta")).named_buffers())
    assert {each.device.type for each in buffers.values()} == {"meta"}
