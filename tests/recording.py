"""Named by class_path in tests with processes: what each rank sees, and what goes wrong."""

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
        self.record = {"x": [], "x_sigma": [], "val/loss": []}

    def score(self, x, sigma):
        """Record the noisy data of training."""
        if self.training:
            self.record["x_sigma"].append(x.detach().clone())
        return super().score(x, sigma)

    def training_step(self, batch, batch_idx):
        """Record the data."""
        self.record["x"].append(batch[0].clone())
        return super().training_step(batch, batch_idx)

    def on_validation_end(self):
        """Record the metric after its synchronisation."""
        if not self.trainer.sanity_checking:
            self.record["val/loss"].append(float(self.trainer.callback_metrics["val/loss"]))

    def on_train_end(self):
        """Write the record, and the weights."""
        self.record["weights"] = [p.detach().clone() for p in self.network.parameters()]
        torch.save(self.record, f"rank{self.global_rank}.pt")


class Misfortune(Callback):
    """Kills its own process at a batch, or says where the run is and makes that place last.

    KILL_AT and KILL_RANK tell the batch, counted over epochs, and the rank; several batches with
    commas between them are for the starts by torchrun, one each. PLACE is one of those
    below: there, each rank writes its process's number to the file PLACE-RANK.
    """

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.happen(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.happen(trainer)

    def happen(self, trainer):
        rank = os.environ.get("KILL_RANK", "0")
        batch = trainer.fit_loop.epoch_loop.total_batch_idx
        start = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        kill_at = dict(enumerate(os.environ.get("KILL_AT", "").split(","))).get(start)
        if kill_at == str(batch) and rank == str(trainer.global_rank):
            os.kill(os.getpid(), signal.SIGKILL)
        if batch >= 40 // trainer.world_size and self.arrive(trainer, "training"):
            time.sleep(0.05)

    def on_validation_batch_start(self, trainer, *args):
        if not trainer.sanity_checking and self.arrive(trainer, "validation"):
            time.sleep(0.5)

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.arrive(trainer, "preview")  # drawn next

    def on_fit_end(self, trainer, pl_module):
        self.arrive(trainer, "pictures")  # drawn next

    def on_predict_start(self, trainer, pl_module):
        self.arrive(trainer, "predict")

    def on_predict_end(self, trainer, pl_module):
        if self.arrive(trainer, "written"):  # put together next
            time.sleep(1)

    def on_test_start(self, trainer, pl_module):
        self.arrive(trainer, "test")

    @staticmethod
    def arrive(trainer, place):
        here = os.environ.get("PLACE") == place
        if here:
            temporary = Path(f".{place}-{trainer.global_rank}")
            temporary.write_text(str(os.getpid()))
            temporary.replace(temporary.name[1:])
        return here
