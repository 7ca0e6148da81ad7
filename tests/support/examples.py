"""Examples of a user's own data, and how to read back what a datamodule made of them."""

import numpy as np
import torch

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(40, 5))
GREY = RNG.integers(256, size=(40, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(256, size=(40, 6, 5, 3), dtype=np.uint8)
CLASSES = np.arange(40) % 3


def read_all(data):
    """All examples and labels of a datamodule, in the order of its splits."""
    data.setup("fit")
    splits = [data.splits[name] for name in ("train", "val", "test")]
    examples = torch.cat([split.data for split in splits]).numpy()
    return examples, torch.cat([split.labels for split in splits]).numpy()


def read_in_order(data):
    """All examples, sorted, and their labels."""
    examples, labels = read_all(data)
    order = in_order(examples)
    return examples[order], labels[order]


def in_order(values):
    """The order that sorts examples."""
    return np.lexsort(values.reshape(len(values), -1).T)
