"""Networks: shapes, conditioning on the noise level and on the class."""

import pytest
import torch

from ncsn.levels import Rho, geometric
from ncsn.networks import MLP, ConditionedResNet, UNet
from ncsn.networks.resnet import NoiseLevelTable
from ncsn.networks.unet import ClassEmbedding

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


@pytest.mark.parametrize(
    "ladder", [geometric, Rho(7), Rho(1)], ids=["geometric", "rho 7", "linear"]
)
def test_table_has_its_rows_on_the_levels_and_is_linear_in_log_sigma_between(ladder):
    levels = ladder(5.0, 0.01, 6)
    table = NoiseLevelTable(4, levels)
    rows = table.table.weight
    torch.testing.assert_close(table(levels), rows, rtol=1e-4, atol=1e-4)
    for u in (0.2, 0.5, 0.9):
        between = levels[:-1] ** (1 - u) * levels[1:] ** u
        expected = (1 - u) * rows[:-1] + u * rows[1:]
        torch.testing.assert_close(table(between), expected, rtol=1e-4, atol=1e-4)
    outside = table(torch.tensor([1e3, 1e-6]))
    torch.testing.assert_close(outside, rows[[0, -1]])


def test_table_of_one_level_has_one_row():
    table = NoiseLevelTable(4, torch.tensor([0.1]))
    torch.testing.assert_close(table(torch.tensor([0.1, 3.0])), table.table.weight.expand(2, 4))


def test_table_is_finite_where_half_precision_cannot_tell_two_levels():
    levels = geometric(50.0, 0.01, 500)
    table = NoiseLevelTable(4, levels).bfloat16()
    assert len(table.rising.unique()) < 500
    assert table(levels.bfloat16()).isfinite().all()


def test_residual_stream_stays_in_bfloat16_under_autocast():
    network = ConditionedResNet(filters=8, num_blocks=2)
    dtypes = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.5]))
    assert dtypes == [torch.bfloat16] * 2


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


def test_another_ladder_gives_the_resnet_new_tables_and_the_same_one_keeps_them():
    network, levels = ConditionedResNet(filters=8, num_blocks=2), Rho(7)(20.0, 0.01, 5)
    network.set_noise_levels(levels)
    tables = [block.embedding for block in network.blocks]
    for table in tables:
        torch.testing.assert_close(table(levels), table.table.weight, rtol=1e-4, atol=1e-4)
    network.set_noise_levels(levels.clone())
    assert [block.embedding for block in network.blocks] == tables


def test_a_conditional_network_is_unconditional_without_labels():
    network = UNet(filters=8, num_classes=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(network.class_embedding.table.weight)
    x, sigma = torch.randn(4, 1, 8, 8), torch.rand(4) + 0.1
    unlabelled, any_class = network(x, sigma), network(x, sigma, torch.full((4,), -1))
    assert torch.equal(unlabelled, any_class)
    assert not torch.allclose(unlabelled, network(x, sigma, torch.tensor([0, 1, 2, 0])))


def test_class_embedding_has_a_row_for_any_class():
    embedding = ClassEmbedding(3, 4)
    assert embedding(torch.tensor([-1, 0, 2])).shape == (3, 4)
    assert embedding.table.weight.shape == (4, 4)
