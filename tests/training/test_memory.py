"""What happens when the memory is short."""

import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from short_runs import fit
from support.paths import CONFIGS, SMOKE

from ncsn.callbacks import Preview, TestReport
from ncsn.evaluation import Trajectory
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


def modules(**kwargs):
    """Two modules with the same weights, of which the second has little memory."""
    sampler = AnnealedLangevin(steps_per_level=1)
    for network in (MLP, SmallMemory):
        torch.manual_seed(0)
        yield NCSN(network(hidden_dim=8), sampler=sampler, **kwargs)


def with_little_memory(**kwargs):
    """The second of them, as the command line makes it."""
    _, small = modules(**kwargs)
    small.score = halve_when_out_of_memory(small.score)
    return small


def test_the_same_samples_are_drawn_fewer_at_a_time():
    large, _ = modules()
    with pytest.warns(UserWarning, match="out of memory") as warned:
        samples = with_little_memory().draw(30, 80)
    torch.testing.assert_close(samples, large.draw(30, 80))
    # Found out once, and not at each step.
    expected = [f"out of memory: evaluating {num} samples at a time" for num in (25, 12)]
    assert [str(each.message) for each in warned] == expected


def test_a_monitor_sees_each_step_once_and_all_samples_in_it():
    large, small = next(modules()), with_little_memory()
    seen, pictured = {}, {}
    with warnings.catch_warnings(action="ignore"):
        for name, module in {"large": large, "small": small}.items():
            steps, trajectory = [], Trajectory()

            def monitor(sigma, x, steps=steps, trajectory=trajectory):
                steps.append((sigma, len(x)))
                trajectory(sigma, x)

            module.draw(0, 50, monitor=monitor)
            seen[name], pictured[name] = steps, trajectory.frames
    assert seen["small"] == seen["large"] == [(sigma, 50) for sigma, _ in seen["large"]]
    for (_, first), (_, second) in zip(pictured["small"], pictured["large"], strict=True):
        torch.testing.assert_close(first, second)


def test_previews_last_pictures_and_tests_get_by_with_little_memory():
    module = with_little_memory(preview=Preview(num_samples=40, num_compared=20))
    with pytest.warns(UserWarning, match="evaluating 10 samples at a time"):
        trainer = fit(module, logger=CSVLogger("."))  # batches of 16, which fit
    names = {path.name for path in Path("lightning_logs/version_0/pictures").iterdir()}
    assert {"samples_step=0000004.png", "samples.png", "score.png", "losses.png"} <= names
    trainer.callbacks.append(TestReport(50, num_likelihood_examples=10))
    with warnings.catch_warnings(action="ignore"):
        trainer.test(module, trainer.datamodule, verbose=False)
    assert Path("lightning_logs/version_0/evaluation.json").is_file()


def test_labels_stay_with_their_samples():
    def score(x, sigma, label):
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.stack([x, sigma, label], dim=1)

    numbers = torch.arange(11)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        found = halve_when_out_of_memory(score)(numbers, numbers + 20, label=numbers + 50)
    assert found.tolist() == [[i, 20 + i, 50 + i] for i in range(11)]


def test_a_training_step_is_not_taken_in_parts():
    small = with_little_memory()
    with pytest.raises(torch.OutOfMemoryError):
        small.loss(torch.randn(64, 2), torch.ones(64))


def test_memory_that_does_not_suffice_for_one_sample_is_reported():
    small = with_little_memory()
    small.network.limit = 0
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(MemoryError, match="not enough memory for a single sample"),
    ):
        small.draw(0, 4)


def test_other_errors_are_left_alone():
    def score(x, sigma):
        raise RuntimeError("shapes do not match")

    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes do not match"):
        halve_when_out_of_memory(score)(torch.zeros(4), torch.zeros(4))
