"""Networks, all called as ``network(x, sigma)``."""

from ncsn.networks.base import ScoreNetwork
from ncsn.networks.mlp import MLP
from ncsn.networks.resnet import ConditionedResNet
from ncsn.networks.unet import UNet

__all__ = ["MLP", "ConditionedResNet", "ScoreNetwork", "UNet"]
