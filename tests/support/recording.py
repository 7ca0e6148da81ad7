"""Named by class_path in tests with processes: what each rank sees, and how it comes to grief."""

import os
import signal
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from ncsn.modules import DSM


class RecordingDSM(DSM):
    """Records data, noisy data and metrics in ``rank{r}.pt``."""

    def on_fit_start(self):
        """Start the record."""
        self.record = {"x": [], "x_sigma": [], "val/loss_per_dim": []}

    def score(self, x, sigma, label=None):
        """Record the noisy data of training."""
        if self.training:
            self.record["x_sigma"].append(x.detach().clone())
        return super().score(x, sigma, label)

    def training_step(self, batch, batch_idx):
        """Record the data."""
        self.record["x"].append(batch[0].clone())
        return super().training_step(batch, batch_idx)

    def on_validation_end(self):
        """Record the metric after it is synchronised."""
        if not self.trainer.sanity_checking:
            metric = float(self.trainer.callback_metrics["val/loss_per_dim"])
            self.record["val/loss_per_dim"].append(metric)

    def on_train_end(self):
        """Write the record and the weights."""
        self.record["weights"] = [p.detach().clone() for p in self.network.parameters()]
        torch.save(self.record, f"rank{self.global_rank}.pt")


class Misfortune(Callback):
    """Kills its own process at a batch, or says that the run is at a place, and lingers there.

    Environment variables say what happens:

    =========  ===================================================================
    KILL_AT    the batch, counted over epochs, at which the process kills itself;
               several with commas in between are one for each start by torchrun
    KILL_RANK  the rank that does, by default 0
    PLACE      the place, one of those below; each rank writes its process number
               to the file PLACE-RANK when it gets there
    LINGER     seconds for which each batch lingers there
    =========  ===================================================================
    """

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.on_batch(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.on_batch(trainer)

    def on_batch(self, trainer):
        batch = trainer.fit_loop.epoch_loop.total_batch_idx
        start = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        kill_at = dict(enumerate(os.environ.get("KILL_AT", "").split(","))).get(start)
        rank = os.environ.get("KILL_RANK", "0")
        if kill_at == str(batch) and rank == str(trainer.global_rank):
            os.kill(os.getpid(), signal.SIGKILL)
        if batch >= 40 // trainer.world_size and self.arrive(trainer, "training"):
            time.sleep(float(os.environ.get("LINGER", "0.05")))

    def on_validation_batch_start(self, trainer, *args):
        if not trainer.sanity_checking and self.arrive(trainer, "validation"):
            time.sleep(0.5)

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.arrive(trainer, "preview")  # it is drawn next

    def on_fit_end(self, trainer, pl_module):
        self.arrive(trainer, "pictures")  # they are drawn next

    def on_predict_start(self, trainer, pl_module):
        self.arrive(trainer, "predict")

    def on_predict_batch_end(self, trainer, *args):
        if self.arrive(trainer, "drawing"):
            time.sleep(float(os.environ["LINGER"]))

    def on_predict_end(self, trainer, pl_module):
        if self.arrive(trainer, "written"):  # the samples are joined next
            time.sleep(1)

    def on_test_start(self, trainer, pl_module):
        self.arrive(trainer, "test")

    @staticmethod
    def arrive(trainer, place):
        """Whether this is the place that was asked for."""
        here = os.environ.get("PLACE") == place
        if here:
            temporary = Path(f".{place}-{trainer.global_rank}")
            temporary.write_text(str(os.getpid()))
            temporary.replace(temporary.name[1:])
        return here
