"""Callbacks, and the average of the weights."""

from ncsn.callbacks.ema import ema_update
from ncsn.callbacks.samples import ImageSamples, PointSamples
from ncsn.callbacks.writer import SampleWriter

__all__ = ["ImageSamples", "PointSamples", "SampleWriter", "ema_update"]
