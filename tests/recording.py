"""A DSM that writes down what each rank sees; named by class_path in the DDP tests."""

import torch

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
