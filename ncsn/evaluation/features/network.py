"""Frozen feature networks, in whose features sets of images are compared.

A Fréchet distance says as much as its features do. Inception's are of colour photographs; for
handwritten digits a small classifier of digits tells more, faster. Two are shipped, each for one
data set. Everything that is measured with them carries their name ("MNIST-FD, features v1"), so
that nobody takes it for Inception's FID.

``python -m ncsn features fit --config configs/features/mnist.yaml`` trains one.
"""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from ncsn.evaluation.codec import to_float

FeatureName: TypeAlias = Literal["mnist", "digits"]


class Shipped(NamedTuple):
    """A :class:`FeatureNetwork` that comes with the package, and the checksum of its weights."""

    version: int  # raised whenever the weights change
    image_size: int
    widths: tuple[int, ...]
    sha256: str


SHIPPED: dict[FeatureName, Shipped] = {
    "mnist": Shipped(
        version=1,
        image_size=28,
        widths=(24, 48, 64),
        sha256="a34b5794c5a8d01f68b7544617fcd24ca49d8ad26c9bcee11c5f4f6dba7b245d",
    ),
    "digits": Shipped(
        version=1,
        image_size=8,
        widths=(32, 64),
        sha256="3f4b09db6882ba2ef12b25d352d5c24c2d2b7aa4ca5c707c7061caaec0df5634",
    ),
}


class Features(NamedTuple):
    """Features, ``(n, num_features)``, and logits, ``(n, num_classes)``, of images, float32."""

    features: Tensor
    logits: Tensor


class FeatureNetwork(nn.Module):
    """A small convolutional classifier; what its last layer sees are the features.

    Stages of two 3x3 convolutions with batch normalisation and ReLU, maximum pooling between
    them, and the mean over space.

    Args:
        image_size: Height and width of the images that it takes.
        widths: Channels of each stage; the last one is the number of features.
        num_classes: Number of classes.
    """

    name: str = "own"
    version: int = 0

    @property
    def title(self) -> str:
        """What tables and pictures call it: ``MNIST features v1``."""
        return f"{self.name.upper()} features v{self.version}"

    def __init__(
        self, image_size: int = 28, widths: tuple[int, ...] = (24, 48, 64), num_classes: int = 10
    ) -> None:
        super().__init__()
        self.image_size, self.num_features = image_size, widths[-1]
        layers: list[nn.Module] = []
        for channels, width in zip((1, *widths[:-1]), widths, strict=True):
            layers += [nn.MaxPool2d(2)] if layers else []
            for inputs in (channels, width):
                layers += [
                    nn.Conv2d(inputs, width, kernel_size=3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Features:
        """Features and logits of images in [-1, 1], ``(batch, 1, height, width)``, resized."""
        if images.shape[-1] != self.image_size:
            images = resize(images, [self.image_size, self.image_size], antialias=True)
        features = self.features(images)
        return Features(features, self.classifier(features))


def load_features(name: FeatureName) -> FeatureNetwork:
    """A shipped feature network, frozen, in evaluation mode; it knows its name and version.

    Raises:
        ValueError: If the file of weights is not the one that was shipped.
    """
    shipped, path = SHIPPED[name], weights_path(name)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != shipped.sha256:
        raise ValueError(
            f"{path} is not version {shipped.version} of the feature network (its SHA-256 is "
            f"{found}, not {shipped.sha256}): install ncsn again"
        )
    with torch.device("meta"):  # draws no weights, so the global random state is left alone
        network = FeatureNetwork(shipped.image_size, shipped.widths)
    network.load_state_dict(load_safetensors(data), assign=True)
    network.name, network.version = name, shipped.version
    return network.eval().requires_grad_(False)


def weights_path(name: FeatureName) -> Path:
    """Where the weights of a shipped feature network are."""
    return Path(__file__).parent / "weights" / f"{name}-v{SHIPPED[name].version}.safetensors"


@torch.no_grad()
def extract_features(network: FeatureNetwork, images: Tensor, batch_size: int = 256) -> Features:
    """Features and logits of uint8 images, ``(n, 1, height, width)``, on the network's device."""
    device = network.classifier.weight.device
    with torch.autocast(device.type, enabled=False):
        batches = [network(to_float(batch.to(device))) for batch in images.split(batch_size)]
    return Features(*map(torch.cat, zip(*batches, strict=True)))
