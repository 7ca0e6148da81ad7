"""Does the shipped moons experiment learn the moons?

Its samples follow the data noised at the level of training, 0.1, not the data itself.
"""

import numpy as np
from support.paths import CONFIGS


def noised_moons(n, rng):
    """Independent points: arcs at random, uniform along each, noise 0.1, and 0.1 of training."""
    t, upper = rng.uniform(0, np.pi, n), rng.random(n) < 0.5
    arcs = np.where(upper, [np.cos(t), np.sin(t)], [1 - np.cos(t), 0.5 - np.sin(t)])
    return arcs.T + np.hypot(0.1, 0.1) * rng.normal(size=(n, 2))


def sliced_wasserstein_2(x, y, num_directions=200):
    """Root mean square over directions of the distance between sorted projections."""
    angles = np.pi * (np.arange(num_directions) + 0.5) / num_directions
    directions = np.stack([np.cos(angles), np.sin(angles)])
    differences = np.sort(x @ directions, axis=0) - np.sort(y @ directions, axis=0)
    return np.sqrt((differences**2).mean())


def test_samples_are_nearly_as_close_to_noised_data_as_such_data_are(cli):
    config = ("--config", CONFIGS / "moons.yaml")
    assert cli("fit", *config) == 0
    checkpoint = "lightning_logs/moons/version_0/checkpoints/last.ckpt"
    predict = ("--ckpt_path", checkpoint, "--num_samples", 5000, "--batch_size", 5000)
    assert cli("predict", *config, *predict) == 0
    samples = np.load("lightning_logs/moons/version_1/samples.npz")["samples"]
    rng = np.random.default_rng(0)

    def mean_distance(draw):
        return np.mean([sliced_wasserstein_2(draw(), noised_moons(5000, rng)) for _ in range(40)])

    floor = mean_distance(lambda: noised_moons(5000, rng))
    assert mean_distance(lambda: samples) < 1.5 * floor
