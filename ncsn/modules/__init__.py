"""LightningModules: denoising score matching at one noise level (DSM) and on a ladder (NCSN)."""

from ncsn.modules.base import ScoreModule
from ncsn.modules.dsm import DSM
from ncsn.modules.ncsn import NCSN

__all__ = ["DSM", "NCSN", "ScoreModule"]
