"""Callbacks: checks, the average of the weights, previews, predictions, tests, diagnoses.

None imports another. What they do depends on the order in which Lightning calls them: first those
of the trainer, in the order of its list, then those of the module (the preview), and those that
write checkpoints last.

=======================  ===========================================================
hook                     what happens, in this order
=======================  ===========================================================
on_train_batch_end       ``EMA`` updates the average; ``Divergence`` checks the
                         numbers; ``ModelCheckpoint`` saves; ``GracefulStop`` saves
                         the last step
on_validation_start      ``EMA`` puts the average in place
on_validation_epoch_end  ``Preview`` draws from it
on_validation_end        ``EMA`` puts the weights back; ``ModelCheckpoint`` saves
on_exception             ``EMA`` puts the weights back; ``GracefulStop`` saves
on_save_checkpoint       ``EMA`` stores the average as ``state_dict``, the weights as
                         ``current_model_state``; ``Divergence`` refuses
                         numbers that are not finite
on_load_checkpoint       ``EMA`` takes both back; ``Resume`` corrects the progress
on_train_end             ``EMA`` leaves the average in place
on_fit_end               ``EMA`` does so after a finished run; ``Preview`` draws
                         from it
=======================  ===========================================================
"""

from ncsn.callbacks.diagnosis import Diagnosis
from ncsn.callbacks.divergence import Divergence
from ncsn.callbacks.ema import EMA
from ncsn.callbacks.predictions import SampleWriter
from ncsn.callbacks.preflight import Preflight
from ncsn.callbacks.preview import Preview
from ncsn.callbacks.progress import ProgressBar
from ncsn.callbacks.test_report import TestReport
from ncsn.callbacks.threads import OneThread

__all__ = [
    "EMA",
    "Diagnosis",
    "Divergence",
    "OneThread",
    "Preflight",
    "Preview",
    "ProgressBar",
    "SampleWriter",
    "TestReport",
]
