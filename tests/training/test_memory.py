"""What happens when the memory is short."""

import warnings

import pytest
import torch
from support.paths import CONFIGS, SMOKE

from ncsn.modules import NCSN
from ncsn.networks import MLP
from ncsn.runtime import halve_when_out_of_memory
from ncsn.sampling import AnnealedLangevin


class SmallMemory(MLP):
    """Raises what torch raises, when a batch is larger than its limit."""

    limit = 16

    def forward(self, x, sigma):
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x, sigma)


def test_a_training_that_needs_too_much_memory_says_what_to_lower(cli, capsys, restore_signals):
    network = ("--model.network", "test_memory.SmallMemory", "--data.batch_size", 64)
    assert cli("fit", "--config", CONFIGS / "moons.yaml", *SMOKE, *network) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: out of memory: lower data.batch_size")


def modules():
    """Two modules with the same weights, of which the second has little memory."""
    sampler = AnnealedLangevin(steps_per_level=1)
    for network in (MLP, SmallMemory):
        torch.manual_seed(0)
        yield NCSN(network(hidden_dim=8), sampler=sampler)


def test_the_same_samples_are_drawn_fewer_at_a_time():
    large, small = modules()
    draw = halve_when_out_of_memory(small.draw)
    with pytest.warns(UserWarning, match="drawing 25 samples at a time"):
        samples = draw(30, 80)
    torch.testing.assert_close(samples, large.draw(30, 80))


def test_labels_stay_with_their_samples():
    def draw(start, stop, label):
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.stack([torch.arange(start, stop), label], dim=1)

    with warnings.catch_warnings(action="ignore"):
        drawn = halve_when_out_of_memory(draw)(5, 16, torch.arange(50, 61))
    assert drawn.tolist() == [[5 + i, 50 + i] for i in range(11)]


def test_memory_that_does_not_suffice_for_one_sample_is_reported():
    _, small = modules()
    small.network.limit = 0
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(MemoryError, match="not enough memory for a single sample"),
    ):
        halve_when_out_of_memory(small.draw)(0, 4)


def test_other_errors_are_left_alone():
    def draw(start, stop, label):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        halve_when_out_of_memory(draw)(0, 4)
