"""Callbacks, and the average of the weights."""

from ncsn.callbacks.ema import ExponentialMovingAverage, update_average
from ncsn.callbacks.evaluation import Evaluation, ImageEvaluation, PointEvaluation
from ncsn.callbacks.graceful_stop import GracefulStop
from ncsn.callbacks.samples import ImageSamples, PointSamples
from ncsn.callbacks.writer import SampleWriter

__all__ = [
    "Evaluation",
    "ExponentialMovingAverage",
    "GracefulStop",
    "ImageEvaluation",
    "ImageSamples",
    "PointEvaluation",
    "PointSamples",
    "SampleWriter",
    "update_average",
]
