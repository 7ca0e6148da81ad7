"""Random splits into training, validation and test data."""

import torch
from torch import Tensor

from ncsn.data.batches import TensorBatches
from ncsn.data.checks import check_range


def check_split(val_fraction: float, test_fraction: float, seed: int) -> None:
    """Check the arguments of a split.

    Raises:
        ValueError: If a share is outside its range, or nothing is left for training.
    """
    check_range("val_fraction", val_fraction, 0, 1)
    check_range("test_fraction", test_fraction, 0, 1)
    check_range("seed", seed, 0, 2**32)
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave "
            "nothing for training: their sum must be below 1"
        )


def random_order(num: int, seed: int) -> Tensor:
    """A permutation of ``num`` examples that depends on the seed alone, int64."""
    return torch.randperm(num, generator=torch.Generator().manual_seed(seed))


def split_sizes(num: int, val_fraction: float, test_fraction: float) -> list[int]:
    """How many of ``num`` examples are for training, for validation, and for the test."""
    num_val, num_test = (round(share * num) for share in (val_fraction, test_fraction))
    return [num - num_val - num_test, num_val, num_test]


def split_in_order(
    data: Tensor, labels: Tensor, val_fraction: float, test_fraction: float
) -> dict[str, TensorBatches]:
    """The data sets ``"train"``, ``"val"`` and ``"test"``, in this order, without a copy.

    Args:
        data: Examples, shape ``(n, *event)``, in random order.
        labels: Their classes, shape ``(n,)``.
        val_fraction: Share of the examples for validation.
        test_fraction: Share for the test; 0 to test on the validation data.
    """
    sizes = split_sizes(len(data), val_fraction, test_fraction)
    parts = zip(data.split(sizes), labels.split(sizes), strict=True)
    train, val, test = (TensorBatches(*part) for part in parts)
    return {"train": train, "val": val, "test": test if test_fraction else val}
