"""Data that is not there: what is known of it from a checkpoint."""

from typing import NoReturn

from ncsn.data.base import InMemoryDataModule


class StoredStatistics(InMemoryDataModule):
    """Shape and statistics of the data of a training, which is all that drawing samples needs.

    Args:
        data_shape, data_mean, data_std, data_diameter: See :class:`InMemoryDataModule`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...] = (2,),
        data_mean: float = 0.0,
        data_std: float = 1.0,
        data_diameter: float | None = None,
    ) -> None:
        super().__init__(batch_size=1)
        self.data_shape, self.data_mean, self.data_std = tuple(data_shape), data_mean, data_std
        self.data_diameter = data_diameter  # type: ignore[assignment]

    def load_splits(self) -> NoReturn:
        """Refuse: there is none."""
        raise ValueError(
            "only the statistics of the data are known: give the --config of the data"
        )
