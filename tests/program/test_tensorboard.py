"""The TensorBoard logger, read with its own library."""

import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.commands import run_process, smoke
from support.paths import OVERLAYS, ROOT


def test_tensorboard_gets_the_numbers_and_the_pictures(server):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    overlay = ("--config", OVERLAYS / "tensorboard.yaml")
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    run_process(server, "fit", *smoke("digits"), *overlay, PYTHONPATH=path)
    events = reader.EventAccumulator("lightning_logs/tensorboard/digits/version_0").Reload()
    assert {"val/loss_per_dim", "val_levels/sigma=10"} <= set(events.Tags()["scalars"])
    run = Path("lightning_logs/digits/version_0")
    found = {
        event.encoded_image_string: (tag, event)
        for tag in events.Tags()["images"]
        for event in events.Images(tag)
    }
    for path in (run / "pictures").iterdir():
        tag, event = found[path.read_bytes()]
        assert path.name.replace(".gif", "_gif").startswith(tag.removeprefix("pictures/"))
        with Image.open(path) as picture:
            assert (event.width, event.height) == picture.size
    assert "pictures/annealing_gif" in {tag for tag, _ in found.values()}
