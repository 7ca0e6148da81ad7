"""Frozen feature networks, in whose features sets of images are compared.

A Fréchet distance says as much as its features do. Inception's are of colour photographs; for
handwritten digits a small classifier of digits tells more, faster. Two are shipped, each for one
data set. Everything that is measured with them carries their name ("MNIST-FD, features v1"), so
that nobody takes it for Inception's FID.

``python -m ncsn features fit --config configs/features/mnist.yaml`` trains one, and writes
``features.safetensors``. One for other data is given to ``python -m ncsn evaluate`` by its path;
one is shipped by copying it to ``weights`` and writing its checksum below, with a new version.
"""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from ncsn.evaluation.codec import to_float
from ncsn.evaluation.files import replacing

FeatureName: TypeAlias = Literal["mnist", "digits"]


class Shipped(NamedTuple):
    """A :class:`FeatureNetwork` that comes with the package, and the checksum of its weights."""

    version: int  # raised whenever the weights change
    image_size: int
    sha256: str


SHIPPED: dict[FeatureName, Shipped] = {
    "mnist": Shipped(
        version=1,
        image_size=28,
        sha256="a34b5794c5a8d01f68b7544617fcd24ca49d8ad26c9bcee11c5f4f6dba7b245d",
    ),
    "digits": Shipped(
        version=1,
        image_size=8,
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
        channels: Channels of the images.

    Attributes:
        name: That of the data set, for tables and pictures.
        version: That of a shipped network; of others, the start of their file's SHA-256.
    """

    name: str = "own"
    version: int | str = 0

    @property
    def title(self) -> str:
        """The name in tables and pictures, ``MNIST features v1``."""
        return f"{self.name.upper()} features v{self.version}"

    def __init__(
        self,
        image_size: int | tuple[int, int] = 28,
        widths: tuple[int, ...] = (24, 48, 64),
        num_classes: int = 10,
        channels: int = 1,
    ) -> None:
        super().__init__()
        size = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        self.image_size, self.channels, self.num_features = size, channels, widths[-1]
        layers: list[nn.Module] = []
        for previous, width in zip((channels, *widths[:-1]), widths, strict=True):
            layers += [nn.MaxPool2d(2)] if layers else []
            for inputs in (previous, width):
                layers += [
                    nn.Conv2d(inputs, width, kernel_size=3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Features:
        """Features and logits of images in [-1, 1], ``(batch, channels, height, width)``, resized.

        Raises:
            ValueError: If they have another number of channels.
        """
        if images.shape[1] != self.channels:
            raise ValueError(
                f"the feature network takes images of {self.channels} channels, got "
                f"{images.shape[1]}: train one on this data with python -m ncsn features fit"
            )
        if images.shape[-2:] != self.image_size:
            images = resize(images, list(self.image_size), antialias=True)
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
    return _frozen(name, shipped.version, shipped.image_size, load_safetensors(data))


def save_features(network: FeatureNetwork, path: Path) -> str:
    """Write a network to a file for :func:`read_features`; returns the file's SHA-256."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    size = "x".join(map(str, network.image_size))
    data = save_safetensors(weights, {"name": network.name, "image_size": size})
    with replacing(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def read_features(path: Path) -> FeatureNetwork:
    """A network that ``python -m ncsn features fit`` has written, frozen, in evaluation mode.

    Its version is the start of the file's SHA-256, so that numbers of two are not mixed up.

    Raises:
        ValueError: If it is another file.
        OSError: If it cannot be read.
    """
    data = path.read_bytes()
    try:
        weights = load_safetensors(data)
        with safe_open(path, "pt") as file:
            about = file.metadata()
        height, width = map(int, about["image_size"].split("x"))
        version = hashlib.sha256(data).hexdigest()[:8]
        return _frozen(about["name"], version, (height, width), weights)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a feature network that python -m ncsn features fit has written"
        ) from error


def _frozen(
    name: str, version: int | str, image_size: int | tuple[int, int], weights: dict[str, Tensor]
) -> FeatureNetwork:
    """A network of given weights, whose shapes say the rest."""
    layers = {name: each for name, each in weights.items() if each.ndim == 4}
    kernels = [layers[name] for name in sorted(layers, key=lambda name: int(name.split(".")[1]))]
    widths = tuple(len(each) for each in kernels[::2])
    num_classes, channels = len(weights["classifier.bias"]), kernels[0].shape[1]
    with torch.device("meta"):  # draws no weights, so the global random state is left alone
        network = FeatureNetwork(image_size, widths, num_classes, channels)
    network.load_state_dict(weights, assign=True)
    network.name, network.version = name, version
    return network.eval().requires_grad_(False)


def weights_path(name: FeatureName) -> Path:
    """Where the weights of a shipped feature network are."""
    return Path(__file__).parent / "weights" / f"{name}-v{SHIPPED[name].version}.safetensors"


@torch.no_grad()
def extract_features(network: FeatureNetwork, images: Tensor, batch_size: int = 256) -> Features:
    """Features and logits of uint8 images, ``(n, channels, height, width)``.

    On the network's device.
    """
    device = network.classifier.weight.device
    with torch.autocast(device.type, enabled=False):
        batches = [network(to_float(batch.to(device))) for batch in images.split(batch_size)]
    return Features(*map(torch.cat, zip(*batches, strict=True)))
