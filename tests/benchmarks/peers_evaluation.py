r"""The same samples under our metrics and under those of other libraries: agreement and time.

python tests/benchmarks/peers_evaluation.py --data_dir data

Samples of `--pretrained mnist` and as many training images, in our features: the Fréchet distance
against torch-fidelity's and that of a matrix square root by SciPy; precision, recall, density and
coverage against prdc.
"""

import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from machine import DEVICE, describe
from peers import installed, versions
from peers_training import draw
from scipy.linalg import sqrtm
from shared import build, data_options, print_table
from torch import Tensor

from ncsn.evaluation.codec import to_uint8
from ncsn.evaluation.features import extract_features
from ncsn.evaluation.metrics import frechet_distance, precision_recall_density_coverage
from ncsn.modules import NCSN
from ncsn.modules.pretrained import SHIPPED
from ncsn.sampling import DPMSolver

Values = dict[str, float]
FRECHET = "Fréchet distance"
MANIFOLDS = ("precision", "recall", "density", "coverage")


def ncsn_frechet(train: Tensor, samples: Tensor) -> Values:
    """Ours."""
    return {FRECHET: frechet_distance(samples, train)}


def ncsn_manifolds(train: Tensor, samples: Tensor) -> Values:
    """Ours."""
    return precision_recall_density_coverage(train, samples, k=5)


def scipy_frechet(train: Tensor, samples: Tensor) -> Values:
    """As pytorch-fid has it: the trace of a matrix square root."""
    x, y = (each.double().cpu().numpy() for each in (train, samples))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    trace = np.trace(a + b - 2 * sqrtm(a @ b).real)
    return {FRECHET: float(np.square(x.mean(0) - y.mean(0)).sum() + trace)}


def fidelity_frechet(train: Tensor, samples: Tensor) -> Values:
    """torch-fidelity's, of features instead of images."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    of = (fid_features_to_statistics(each.double().cpu()) for each in (train, samples))
    return {FRECHET: fid_statistics_to_metric(*of, verbose=False)["frechet_inception_distance"]}


def prdc_manifolds(train: Tensor, samples: Tensor) -> Values:
    """prdc's; it prints the numbers of images."""
    from prdc import compute_prdc

    with redirect_stdout(StringIO()):
        found = compute_prdc(train.cpu().numpy(), samples.cpu().numpy(), nearest_k=5)
    return {name: float(found[name]) for name in MANIFOLDS}


PAIRS: dict[str, tuple[tuple[str, ...], Callable[..., Values], Callable[..., Values]]] = {
    "torch-fidelity": (("torch_fidelity",), ncsn_frechet, fidelity_frechet),
    "SciPy": ((), ncsn_frechet, scipy_frechet),
    "prdc": (("prdc",), ncsn_manifolds, prdc_manifolds),
}
"""What each needs, our metric, and theirs."""


def timed(metric: Callable[..., Values], *features: Tensor) -> tuple[Values, float]:
    """What it finds, and the shorter of two times in seconds."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        values = metric(*features)
        times.append(time.perf_counter() - start)
    return values, min(times)


def measure(
    data_dir: Path | None = None,
    num_samples: int = 2000,
    output: Path = Path("peers_evaluation.md"),
) -> None:
    """Print a table in Markdown, and write it to a file.

    Args:
        data_dir: Directory with MNIST/raw.
        num_samples: Samples, and training images.
        output: The file.
    """
    module = NCSN.from_pretrained(SHIPPED / "mnist").eval().to(DEVICE)
    reference = build("mnist_cpu", *data_options(data_dir)).datamodule.reference("test")
    assert reference.features is not None
    network = reference.features.to(DEVICE)
    samples = draw(module, num_samples, DPMSolver(10, eta=1.0))
    images = reference.train[:num_samples].to(DEVICE), to_uint8(samples)
    features = [extract_features(network, each).features for each in images]
    body: list[tuple[object, ...]] = []
    for name, (requires, own, other) in PAIRS.items():
        if installed(name, requires):
            (a, own_seconds), (b, seconds) = timed(own, *features), timed(other, *features)
            for metric in a:
                values = (
                    f"{a[metric]:.9g}",
                    f"{b[metric]:.9g}",
                    f"{abs(a[metric] - b[metric]):.1e}",
                )
                body.append((metric, name, *values, f"{own_seconds:.3f}", f"{seconds:.3f}"))
    heading = ("metric", "other library", "ncsn", "other", "difference", "ncsn, s", "other, s")
    print_table(heading, body, output)
    print(
        f"\n{num_samples:,} samples, {features[0].shape[1]} features; {describe()}; {versions()}"
    )


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
