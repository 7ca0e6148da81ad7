"""Callbacks, and the average of the weights."""

from ncsn.callbacks.ema import ema_update
from ncsn.callbacks.evaluation import Evaluation, ImageEvaluation, PointEvaluation
from ncsn.callbacks.samples import ImageSamples, PointSamples
from ncsn.callbacks.writer import SampleWriter

__all__ = [
    "Evaluation",
    "ImageEvaluation",
    "ImageSamples",
    "PointEvaluation",
    "PointSamples",
    "SampleWriter",
    "ema_update",
]
