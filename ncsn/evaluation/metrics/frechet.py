"""The Fréchet distance in the features of a network.

    ‖μ_x − μ_y‖² + tr(C_x + C_y − 2 (C_x C_y)^½)

is the squared Wasserstein-2 distance of two Gaussians with the means and covariances of the
features (Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson & Landau 1982).
"""

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """The Fréchet distance of two sets of features, by torchmetrics, in float64.

    Args:
        x: Shape ``(n, num_features)``, n >= 2.
        y: Shape ``(m, num_features)``, m >= 2.
    """
    network = nn.Identity()  # the features have been computed already
    network.num_features = x.shape[1]  # type: ignore[assignment]
    # One process has all of the features, and others do not call this.
    metric = FrechetInceptionDistance(feature=network, sync_on_compute=False).to(x.device)
    metric.set_dtype(torch.float64)
    metric.update(x.double(), real=True)
    metric.update(y.double(), real=False)
    return metric.compute().item()


def load_inception() -> nn.Module:
    """torch-fidelity's Inception network, from uint8 images of 3 channels to 2,048 features.

    Raises:
        ImportError: If torch-fidelity is not installed.
        OSError: If its weights are not available.
    """
    try:
        return FrechetInceptionDistance(feature=2048).inception
    except ModuleNotFoundError as error:
        message = "Inception FID needs torch-fidelity: pip install torch-fidelity"
        raise ImportError(message) from error
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"Inception FID needs weights that could not be downloaded ({error}): put "
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth into ~/.cache/torch/hub/checkpoints"
        ) from error
