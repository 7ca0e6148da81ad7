"""Classifiers of images: how they are trained, and what one that is trained on samples knows.

The recipe is that of the feature networks (``python -m ncsn features fit``).
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import RandomAffine

from ncsn.evaluation.codec import to_float
from ncsn.evaluation.estimate import Better, Estimates, estimate_all
from ncsn.evaluation.features import FeatureNetwork, extract_features
from ncsn.evaluation.kinds import Reference

NUM_EPOCHS, BATCH_SIZE, LEARNING_RATE = 30, 32, 3e-3  # where nothing else is said
NUM_SPLITS = 4  # for standard errors: each trains two classifiers on half of the images

AUGMENT = RandomAffine(10, (0.1, 0.1), (0.9, 1.1), fill=-1.0)
"""Rotates, moves and resizes images a little."""


def classification_loss(network: FeatureNetwork, x: Tensor, label: Tensor) -> Tensor:
    """Cross entropy with smoothed labels; each quarter of the batch is augmented in its own way.

    Args:
        network: The classifier.
        x: Images in [-1, 1], shape ``(batch, channels, height, width)``.
        label: Their classes, shape ``(batch,)``.
    """
    x = torch.cat([AUGMENT(part) for part in x.chunk(4)])
    return F.cross_entropy(network(x).logits, label, label_smoothing=0.1)


def one_cycle(
    parameters: Iterable[nn.Parameter], lr: float, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with the one-cycle schedule over the whole training."""
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=num_steps)


def train_classifier(images: Tensor, labels: Tensor, num_classes: int) -> FeatureNetwork:
    """A classifier, trained on the device of the images, in evaluation mode.

    It depends on its arguments alone; the global random state is left alone.

    Args:
        images: uint8, shape ``(n, channels, height, width)``.
        labels: Their classes, shape ``(n,)``.
        num_classes: Number of classes.
    """
    channels, height, width = images.shape[1:]
    batch_size = min(BATCH_SIZE, len(images))
    steps = len(images) // batch_size
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPU as well
        network = FeatureNetwork((height, width), num_classes=num_classes, channels=channels)
        network = network.to(images.device).train()
        optimizer, schedule = one_cycle(network.parameters(), LEARNING_RATE, NUM_EPOCHS * steps)
        for _ in range(NUM_EPOCHS):
            order = torch.randperm(len(images))[: steps * batch_size].to(images.device)
            for rows in order.split(batch_size):
                loss = classification_loss(network, to_float(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval().requires_grad_(False)


def classifier_accuracy(samples: Tensor, labels: Tensor, reference: Reference) -> Estimates:
    """The accuracy on held-out data of a classifier that is trained on samples.

    The floor is that of one that is trained on as many training examples. Both say how much of
    what tells the classes apart is in the samples: a class that is missing, or looks alike for all
    its samples, costs accuracy. The standard error has two parts: that of other images to train
    on, from halves, and that of other images to test on.

    Source: Ravuri & Vinyals 2019, "Classification Accuracy Score for Conditional Generative
    Models" (arXiv 1905.10887).

    Args:
        samples: uint8, shape ``(n, channels, height, width)``; of more than there are training
            examples, some.
        labels: The class that each was drawn for, shape ``(n,)``.
        reference: The data, with the classes of its held-out examples.

    Raises:
        ValueError: If the data has no classes, or a label is not one of them.
    """
    num_classes = int(reference.labels.max()) + 1
    if num_classes < 2 or reference.held_out_labels is None:
        raise ValueError("the data has no classes, which classifier_accuracy needs")
    if not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(
            f"labels of samples must be classes of the data, from 0 to {num_classes - 1}, got "
            f"from {int(labels.min())} to {int(labels.max())}"
        )
    num, device = min(len(samples), len(reference.train)), samples.device
    real, drawn = (
        torch.randperm(len(each), generator=torch.Generator().manual_seed(0))[:num]
        for each in (reference.train, samples)
    )
    images = torch.cat([samples[drawn.to(device)], reference.train[real].to(device)])
    classes = torch.cat([labels.to(device)[drawn.to(device)], reference.labels[real].to(device)])
    expected = reference.held_out_labels.to(device)

    with Progress(transient=True) as progress:
        task = progress.add_task("Training classifiers", total=2 * (1 + 2 * NUM_SPLITS))

        def accuracy(rows: Tensor) -> dict[str, float]:
            network = train_classifier(images[rows], classes[rows], num_classes)
            found = extract_features(network, reference.held_out).logits.argmax(1)
            progress.advance(task)
            return {"classifier_accuracy": (found == expected).float().mean().item()}

        titles: dict[str, tuple[str, Better]] = {
            "classifier_accuracy": ("classifier accuracy", "higher")
        }
        rows = torch.arange(2 * num, device=device).split(num)
        found = estimate_all(accuracy, titles, *rows, num_splits=NUM_SPLITS)
    estimate = found["classifier_accuracy"]
    assert estimate.floor is not None
    add_test_error = partial(_add_test_error, num=len(expected))
    estimate.standard_error = add_test_error(estimate.value, estimate.standard_error)
    estimate.floor_standard_error = add_test_error(estimate.floor, estimate.floor_standard_error)
    return found


def _add_test_error(accuracy: float, error: float | None, num: int) -> float:
    """Add the error from ``num`` test images, half of one counted as right and half as wrong."""
    share = (accuracy * num + 0.5) / (num + 1)
    return math.hypot(error or 0.0, math.sqrt(share * (1 - share) / num))
