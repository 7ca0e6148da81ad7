"""Other libraries, each trained and sampled as its own documentation does on MNIST.

Each is a class of a few lines: the model, the loss, the optimizer and the sampler of the page that
``url`` names, changed only where a comment says so. Libraries are imported when they are used.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain, repeat
from typing import Any

import torch
from machine import DEVICE
from shared import build
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

SAMPLES_AT_ONCE = 250
"""Samples drawn at once."""


class Peer(ABC):
    """A model, how it is trained, and how it is sampled.

    Args:
        data: Pairs of an image in [-1, 1], shape ``(1, 28, 28)``, and its class.

    Attributes:
        requires: Modules to import.
        recipe: Model and training, for the table.
        sampler: Its sampler, for the table.
        url: The documentation that it follows.
        lr: Learning rate of Adam.
        network: What has the parameters.
        evaluations: Network evaluations of the last samples.
    """

    requires: tuple[str, ...]
    recipe: str
    sampler: str
    url: str
    batch_size: int
    lr: float
    network: nn.Module
    evaluations = 0

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the network, and what else the training needs."""

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch, unless :meth:`steps` is the library's."""
        raise NotImplementedError

    @abstractmethod
    def draw(self, label: Tensor) -> Tensor:
        """Samples in [-1, 1], one for each class if the model has classes."""

    def loader(self, drop_last: bool = True) -> DataLoader[Any]:
        """Shuffled batches of the data."""
        return DataLoader(self.data, self.batch_size, shuffle=True, drop_last=drop_last)

    def steps(self) -> Iterator[int]:
        """Train without end; the number of images of each step."""
        optimizer = torch.optim.Adam(self.network.parameters(), self.lr)
        for x, label in chain.from_iterable(repeat(self.loader())):
            loss = self.loss(x.to(DEVICE), label.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield len(x)

    @torch.no_grad()
    def sample(self, num: int) -> Tensor:
        """Samples of classes in turn."""
        self.network.eval()
        labels = torch.arange(num, device=DEVICE) % 10
        samples = torch.cat([self.draw(part) for part in labels.split(SAMPLES_AT_ONCE)])
        self.network.train()
        return samples


class Diffusers(Peer):
    """Hugging Face's course on diffusion models, unit 2: DDPM of MNIST with classes."""

    requires = ("diffusers",)
    recipe = "UNet2DModel 32-64-64 with attention, classes; DDPM, cosine; Adam 1e-3, batch 128"
    sampler = "DDPM, 100 steps"
    url = "https://huggingface.co/learn/diffusion-course/unit2/3"
    batch_size = 128
    lr = 1e-3

    def build(self) -> None:
        """The course's ``ClassConditionedUnet``."""
        from diffusers import DDPMScheduler, UNet2DModel

        unet = UNet2DModel(
            sample_size=28,
            in_channels=1 + 4,
            out_channels=1,
            layers_per_block=2,
            block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )
        self.network = nn.ModuleDict({"unet": unet, "classes": nn.Embedding(10, 4)}).to(DEVICE)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")

    def predict(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """The noise."""
        classes = self.network["classes"](label)[:, :, None, None].expand(-1, -1, 28, 28)
        return self.network["unet"](torch.cat((x, classes), 1), t).sample

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        """Of the noise."""
        noise, t = torch.randn_like(x), torch.randint(0, 999, (len(x),), device=DEVICE)
        return mse_loss(self.predict(self.scheduler.add_noise(x, noise, t), t, label), noise)

    def draw(self, label: Tensor) -> Tensor:
        """The course's scheduler, with 100 steps instead of 1,000."""
        self.scheduler.set_timesteps(100)
        x = torch.randn(len(label), 1, 28, 28, device=DEVICE)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.predict(x, t, label), t, x).prev_sample
        self.evaluations = len(self.scheduler.timesteps)
        return x


class Azula(Peer):
    """Azula's tutorial on MNIST: EDM's denoiser, with classes."""

    requires = ("azula",)
    recipe = "UNet 16-32-64, classes; Karras denoiser, variance preserving; Adam 3e-4, batch 64"
    sampler = "DDIM, 64 steps"
    url = "https://azula.readthedocs.io/stable/tutorials/mnist.html"
    batch_size = 64
    lr = 3e-4

    def build(self) -> None:
        """The denoiser of the tutorial, around :meth:`backbone`."""
        from azula.denoise import KarrasDenoiser
        from azula.noise import VPSchedule

        self.network = KarrasDenoiser(self.backbone(), VPSchedule()).to(DEVICE)

    def backbone(self) -> nn.Module:
        """The tutorial's ``UNetWrapper``."""
        from azula.nn.unet import UNet

        class UNetWrapper(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unet = UNet(1, 1, 0, [16, 32, 64], [2, 2, 2], mod_features=64)
                self.label = nn.Embedding(10, 64)
                self.time = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64))

            def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
                return self.unet(x, self.label(label) + self.time(t[..., None]))

        return UNetWrapper()

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        """The denoiser's own."""
        return self.network.loss(x, torch.rand(len(x), device=DEVICE), label=label)  # type: ignore[operator]

    def draw(self, label: Tensor) -> Tensor:
        """DDIM."""
        from azula.sample import DDIMSampler

        sampler = DDIMSampler(self.network, steps=64, silent=True)  # type: ignore[arg-type]
        self.evaluations = sampler.steps
        x = sampler.init((len(label), 1, 28, 28), device=DEVICE)
        return sampler(x, label=label)


class OursInAzula(Azula):
    """Our U-Net in Azula's denoiser, under its loss and its sampler; it has no classes."""

    recipe = "our U-Net of mnist_cpu.yaml; otherwise as azula"

    def backbone(self) -> nn.Module:
        """The network takes sigma, where Azula gives its logarithm."""

        class Backbone(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.unet = build("mnist_cpu").model.network

            def forward(self, x: Tensor, log_sigma: Tensor, label: Tensor) -> Tensor:
                return self.unet(x, log_sigma.exp().expand(len(x)))

        return Backbone()


class SmallDiffusion(Peer):
    """Smalldiffusion's example of Fashion-MNIST with a U-Net.

    Without its horizontal flips, which make other digits; and with a batch of 64 instead of 1,024
    on a CPU, where 300 seconds would be some tens of steps.
    """

    requires = ("smalldiffusion", "torch_ema")
    batch_size = 1024 if DEVICE.type == "cuda" else 64
    lr = 7e-4
    recipe = (
        f"Unet 64-64-128 with attention; log-linear levels; AdamW 7e-4, EMA, batch {batch_size}"
    )
    sampler = "accelerated (gam 1.6), 20 steps"
    url = "https://github.com/yuanchenyang/smalldiffusion/blob/main/examples/fashion_mnist_unet.py"

    def build(self) -> None:
        """The example's model and levels."""
        from smalldiffusion import Scaled, ScheduleLogLinear, Unet
        from torch_ema import ExponentialMovingAverage

        self.schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
        self.network = Scaled(Unet)(28, 1, 1, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(14,))
        self.network.to(DEVICE)
        self.ema = ExponentialMovingAverage(self.network.parameters(), decay=0.999)

    def steps(self) -> Iterator[int]:
        """The library's own loop."""
        from smalldiffusion import MappedDataset, training_loop

        self.data = MappedDataset(self.data, lambda pair: pair[0])
        loop = partial(training_loop, self.loader(drop_last=False), self.network, self.schedule)
        for step, state in enumerate(loop(lr=self.lr)):
            if step:  # the loop yields before it changes the weights
                self.ema.update()
            yield len(state.x0)

    def draw(self, label: Tensor) -> Tensor:
        """Of the averaged weights."""
        from smalldiffusion import samples

        levels = self.schedule.sample_sigmas(20)
        self.evaluations = len(levels) - 1
        with self.ema.average_parameters():
            *_, x = samples(self.network, levels, gam=1.6, batchsize=len(label))
        return x


class TorchCFM(Peer):
    """TorchCFM's example of MNIST: flow matching with optimal transport in each batch."""

    requires = ("torchcfm", "torchdyn")
    recipe = "UNetModel 32, one block a level; OT-CFM; Adam 1e-3, batch 128"
    sampler = "dopri5, tolerance 1e-4"
    url = (
        "https://github.com/atong01/conditional-flow-matching/blob/main/examples/images/"
        "mnist_example.ipynb"
    )
    batch_size = 128
    lr = 1e-3

    def build(self) -> None:
        """The example's model and coupling."""
        from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher
        from torchcfm.models.unet import UNetModel

        self.network = UNetModel(dim=(1, 28, 28), num_channels=32, num_res_blocks=1).to(DEVICE)
        self.matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
        self.network.register_forward_hook(self.count)

    def count(self, *_: Any) -> None:
        """Count an evaluation: the solver chooses how many it takes."""
        self.evaluations += 1

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        """Of the velocity."""
        noise = torch.randn_like(x)
        t, xt, velocity = self.matcher.sample_location_and_conditional_flow(noise, x)
        return mse_loss(self.network(t, xt), velocity)

    def draw(self, label: Tensor) -> Tensor:
        """From noise at 0 to data at 1."""
        from torchdyn.core import NeuralODE

        node = NeuralODE(self.network, "dopri5", sensitivity="adjoint", atol=1e-4, rtol=1e-4)
        self.evaluations = 0
        noise = torch.randn(len(label), 1, 28, 28, device=DEVICE)
        return node.trajectory(noise, t_span=torch.linspace(0, 1, 2, device=DEVICE))[-1]


PEERS: dict[str, type[Peer]] = {
    "diffusers": Diffusers,
    "azula": Azula,
    "azula, our U-Net": OursInAzula,
    "smalldiffusion": SmallDiffusion,
    "torchcfm": TorchCFM,
}


def installed(name: str, requires: Sequence[str]) -> bool:
    """Whether all modules are there; if not, a line says that the peer is skipped."""
    absent = [module for module in requires if find_spec(module) is None]
    if absent:
        print(f"{name} skipped: {', '.join(absent)} not installed (pip install -e '.[peers]')")
    return not absent


def versions() -> str:
    """Of all that is compared and installed."""
    found = []
    names = ("diffusers", "azula", "smalldiffusion", "torchcfm", "flow_matching", "prdc")
    for name in (*names, "torch_fidelity", "torchmetrics", "scikit-learn", "scipy"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)
