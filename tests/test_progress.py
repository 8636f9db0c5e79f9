"""Speeds that the progress line tells."""

import jax
import numpy as np

from muskie_jax.buckets import Bucket
from muskie_jax.losses import LossOptions
from muskie_jax.masking import MaskOptions
from muskie_jax.models.muskie import build_model
from muskie_jax.perf.flops import training_flops
from muskie_jax.progress import Progress
from muskie_jax.train_step import Task


def test_arithmetic_is_that_of_what_is_computed():
    bucket, model = Bucket(128, 128, 8), build_model("nano")
    counted = []
    for masks in (None, MaskOptions((("random", 0.9),))):
        progress = Progress(Task(model, LossOptions(), 1, masks), jax.devices()[0], 1, 0, 10)
        progress.count([(bucket, {"mask": np.zeros((3, 8, 64), bool)})] * 2)
        assert progress.views == 2 * 3 * 8
        counted.append(progress.flops)
    assert counted == [6 * training_flops(model, bucket), 6 * training_flops(model, bucket, 384)]
    assert counted[1] < counted[0]
