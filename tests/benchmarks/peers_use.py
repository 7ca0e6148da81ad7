r"""What other libraries' trainings do when a value of the data is not a number.

python tests/benchmarks/peers_use.py

One value of one image in each batch is NaN, and each recipe of :mod:`peers` takes four steps.
"""

import torch
from jsonargparse import auto_cli
from machine import alone
from peers import PEERS, installed, versions
from shared import print_table
from torch.utils.data import TensorDataset


def train_on_nan(name: str, num_steps: int) -> str:
    """What becomes of a training."""
    torch.manual_seed(0)
    num = PEERS[name].batch_size
    images = 2 * torch.rand(num, 1, 28, 28) - 1
    images[0, 0, 14, 14] = torch.nan
    peer = PEERS[name](TensorDataset(images, torch.arange(num) % 10))
    steps = peer.steps()
    try:
        for _ in range(num_steps):
            next(steps)
    except Exception as error:  # whatever a library may raise
        return f"ends: {type(error).__name__}: {error}"
    weights = torch.cat([each.detach().flatten() for each in peer.network.parameters()])
    share = 1 - weights.isfinite().double().mean().item()
    return f"trains on; {share:.0%} of the weights are not finite"


def measure(libraries: tuple[str, ...] = tuple(PEERS), num_steps: int = 4) -> None:
    """Print a table in Markdown.

    Args:
        libraries: Names, as in the table.
        num_steps: Steps of each training.
    """
    here = [name for name in libraries if installed(name, PEERS[name].requires)]
    rows = [(name, alone(train_on_nan, name, num_steps)) for name in here]
    print_table(("library", "NaN in an image"), rows)
    print(f"\n{versions()}")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
