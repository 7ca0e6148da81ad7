"""Muon: its step is the momentum with its singular values made equal, and Adam's for vectors."""

import pytest
import torch
from torch import nn

from ncsn.networks import UNet
from ncsn.optimizers import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 32, 288), (2, 288, 32)])
def test_singular_values_become_about_one_and_the_vectors_stay(shape):
    generator = torch.Generator().manual_seed(0)
    u, s, vh = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    s = torch.linspace(1, 0.05, s.shape[-1]) * s[..., :1]  # a condition number of 20
    found = u.mT @ orthogonalise(u @ torch.diag_embed(s) @ vh) @ vh.mT
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    assert diagonal.min() > 0.65
    assert diagonal.max() < 1.3
    torch.testing.assert_close(found, torch.diag_embed(diagonal), atol=1e-4, rtol=0)


def test_the_unit_of_the_loss_does_not_matter():
    momentum = torch.randn(2, 8, 20)
    torch.testing.assert_close(orthogonalise(1e-12 * momentum), orthogonalise(momentum))
    assert torch.equal(orthogonalise(0 * momentum), torch.zeros(2, 8, 20))


def gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_a_convolution_steps_like_the_matrix_of_its_output_channels():
    convolution, matrix = nn.Conv2d(6, 8, 3, bias=False), nn.Linear(54, 8, bias=False)
    with torch.no_grad():
        matrix.weight.copy_(convolution.weight.flatten(1))
    optimizers = [Muon(each.parameters()) for each in (convolution, matrix)]
    for seed in range(3):
        gradients([convolution.weight], seed)
        matrix.weight.grad = convolution.weight.grad.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(convolution.weight.flatten(1), matrix.weight)


def test_matrices_of_one_shape_are_stepped_together_as_each_alone():
    together = [nn.Parameter(torch.zeros(4, 6)) for _ in range(3)]
    alone = [nn.Parameter(torch.zeros(4, 6)) for _ in range(3)]
    gradients(together, 0)
    gradients(alone, 0)
    for optimizer in [Muon(together), *(Muon([each]) for each in alone)]:
        optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_vectors_step_like_adam_and_gradients_are_kept():
    ours, adams = (nn.Parameter(torch.ones(5)) for _ in range(2))
    weight = nn.Parameter(torch.ones(2, 3))
    optimizers = Muon([ours, weight], lr=0.1), torch.optim.Adam([adams], lr=0.1)
    for seed in range(3):
        gradients([ours, weight], seed)
        gradients([adams], seed)
        for optimizer in optimizers:
            optimizer.step()
        assert ours.grad is not None
        assert weight.grad is not None
    torch.testing.assert_close(ours, adams)


def test_a_resumed_training_steps_like_one_that_went_on():
    networks = [UNet(filters=8, num_blocks=1) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    first, second = (Muon(network.parameters()) for network in networks)

    def steps(network, optimizer, seeds):
        for seed in seeds:
            gradients(network.parameters(), seed)
            optimizer.step()

    steps(networks[0], first, range(4))
    steps(networks[1], second, range(2))
    resumed = Muon(networks[1].parameters())
    resumed.load_state_dict(second.state_dict())
    steps(networks[1], resumed, range(2, 4))
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_group_that_is_added_later_has_the_same_options():
    first, second = (nn.Parameter(torch.zeros(2, 3)) for _ in range(2))
    optimizer = Muon([first], matrix_lr_ratio=5.0, momentum=0.5)
    optimizer.add_param_group({"params": [second]})
    for parameter in (first, second):
        parameter.grad = torch.ones(2, 3)
    optimizer.step()
    torch.testing.assert_close(first, second)


def test_one_cycle_cycles_the_momentum_of_the_vectors_alone():
    optimizer = Muon([nn.Parameter(torch.zeros(2, 3))], momentum=0.9)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    (group,) = optimizer.param_groups
    assert group["betas"] == pytest.approx((0.95, 0.999))  # its max_momentum
    assert group["momentum"] == 0.9
    assert group["lr"] == pytest.approx(0.1 / 25)


@pytest.mark.parametrize("option", [{"matrix_lr_ratio": -1.0}, {"momentum": 1.0}, {"lr": -1.0}])
def test_a_value_outside_its_domain_is_refused(option):
    with pytest.raises(ValueError, match=r"must be|Invalid"):
        Muon([nn.Parameter(torch.zeros(2, 2))], **option)
