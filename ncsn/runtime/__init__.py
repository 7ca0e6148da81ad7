"""What keeps a run alive: checkpoints, resuming, signals, lost ranks, W&B, memory.

Private attributes of Lightning and W&B, named in ``tests/program/test_private.py``, stay here.
"""

from ncsn.runtime.checkpoints import DurableCheckpointIO, load_checkpoint
from ncsn.runtime.memory import halve_when_out_of_memory, keep_freed_memory
from ncsn.runtime.resume import Resume
from ncsn.runtime.runs import RunLogger
from ncsn.runtime.signals import GracefulStop, Stopped
from ncsn.runtime.wandb import WandbLogger

__all__ = [
    "DurableCheckpointIO",
    "GracefulStop",
    "Resume",
    "RunLogger",
    "Stopped",
    "WandbLogger",
    "halve_when_out_of_memory",
    "keep_freed_memory",
    "load_checkpoint",
]
