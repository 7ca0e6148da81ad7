"""Models made in Python, stored and made again."""

import json
import pickle
import sys
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from short_runs import fit

from ncsn.config import config_of
from ncsn.evaluation import Estimate, Report
from ncsn.levels import Rho
from ncsn.modules import DSM, NCSN, ScoreModule
from ncsn.networks import MLP, UNet
from ncsn.objectives import denoising_score_matching
from ncsn.parametrisation import EDM
from ncsn.sampling import DPMSolver, PredictorCorrector

OPTIONS = {
    "sigma_max": np.float64(3.0),
    "ladder": Rho(5),
    "parametrisation": EDM(),
    "sampler": DPMSolver(num_steps=6, eta=1.0, ladder=Rho(rho=3)),
    "level_density": (0.1, 1.2),
    "objective": denoising_score_matching,
    "optimizer": partial(torch.optim.Adam, lr=1e-3),
}


def model(**options):
    """An NCSN that was made in Python."""
    return NCSN(MLP(hidden_dim=16), **OPTIONS | options)


class Net(MLP):
    """A network of a user."""


def test_a_module_trained_in_python_is_loaded_from_its_checkpoint_alone(tmp_path):
    module = model()
    trainer = fit(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    for name in ("a.ckpt", "weights.ckpt"):
        loaded = NCSN.load_from_checkpoint(tmp_path / name, weights_only=True)
        assert torch.equal(loaded.draw(0, 5), module.draw(0, 5))
        assert torch.equal(loaded.noise_levels, module.noise_levels)
        assert torch.equal(loaded.level_probabilities, module.level_probabilities)


def test_an_argument_can_be_replaced_when_a_checkpoint_is_loaded(tmp_path):
    fit(model()).save_checkpoint(tmp_path / "a.ckpt")
    sampler = PredictorCorrector(num_steps=4)
    loaded = NCSN.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True, sampler=sampler)
    assert str(loaded.sampler) == str(sampler)


def test_what_plain_data_cannot_describe_is_asked_for(tmp_path):
    def objective(score, x, sigma, generator=None):
        return denoising_score_matching(score, x, sigma, generator)

    module = DSM(MLP(hidden_dim=16), objective=objective)
    with pytest.raises(ValueError, match="objective is a function, which is no plain data"):
        module.save_pretrained(tmp_path / "folder")
    fit(module).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"does not say what its module was made of.*'network'"):
        DSM.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    options = {"network": MLP(hidden_dim=16), "objective": objective, "weights_only": True}
    loaded = DSM.load_from_checkpoint(tmp_path / "a.ckpt", **options)
    assert loaded.objective is objective


def test_what_an_object_was_made_of_survives_copies():
    network = UNet(1, filters=8, multipliers=(1, 2))
    expected = {"class_path": "ncsn.networks.unet.UNet"}
    expected["init_args"] = {"channels": 1, "filters": 8, "multipliers": [1, 2]}
    for each in (network, deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert config_of(each) == expected
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        UNet(1, widht=3)


def test_a_folder_holds_tensors_and_plain_data_and_gives_the_module_back(tmp_path):
    module = model()
    fit(module)
    data = {"class_path": "ncsn.data.MoonsDataModule", "init_args": {"noise": 0.2}}
    figures = {"energy": Estimate("energy distance", 0.5, 0.01, 0.1, 0.02, "lower")}
    Report({"num_samples": 20, "checkpoint": "a", "time": "now"}, figures).write(tmp_path)
    options = {"data": data, "evaluation": tmp_path, "license": "MIT"}
    module.save_pretrained(tmp_path / "folder", **options)
    files = {path.name for path in (tmp_path / "folder").iterdir()}
    assert files == {"model.safetensors", "config.json", "README.md"}
    stored = json.loads((tmp_path / "folder/config.json").read_text())
    assert stored == {"model": module.describe(), "data": data}
    assert not {"optimizer", "preview"} & stored["model"]["init_args"].keys()
    loaded = NCSN.from_pretrained(tmp_path / "folder")
    assert not loaded.training
    assert torch.equal(loaded.draw(0, 5), module.draw(0, 5))
    loaded.save_pretrained(tmp_path / "again")  # a folder of a folder
    again = ScoreModule.from_pretrained(tmp_path / "again")
    assert again.describe() == loaded.describe()
    assert torch.equal(again.draw(0, 5), module.draw(0, 5))
    card = (tmp_path / "folder/README.md").read_text()
    num = sum(each.numel() for each in module.network.parameters())
    for text in ("MoonsDataModule", f"{num:,} parameters", "10, from 3 to 0.01", "Licence: MIT"):
        assert text in card
    assert "| energy distance | 0.500 ± 0.010 | 0.100 ± 0.020 | lower |" in card


def test_a_class_that_cannot_be_imported_is_not_stored(tmp_path):
    class Local(MLP):
        pass

    class LocalDSM(DSM):
        pass

    with pytest.raises(ValueError, match="network is a Local, which is no plain data"):
        DSM(Local()).describe()
    with pytest.raises(ValueError, match="LocalDSM cannot be imported"):
        LocalDSM(MLP()).describe()


@pytest.fixture
def folder(tmp_path):
    """The folder of a model with a network of a user."""
    DSM(Net(hidden_dim=16)).save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


def test_a_class_of_others_is_imported_if_it_is_trusted(folder):
    with pytest.raises(ValueError, match=rf"names {Net.__module__}.Net.*in trust="):
        DSM.from_pretrained(folder)
    for trust in (Net.__module__, [f"{Net.__module__}.Net"]):
        assert type(DSM.from_pretrained(folder, trust=trust).network) is Net


def test_nothing_is_imported_that_only_a_folder_names(folder, monkeypatch):
    (folder.parent / "evil.py").write_text("open('pwned', 'w')")
    monkeypatch.syspath_prepend(folder.parent)
    for text in ("evil.Net", "subprocess.Popen", "ncsn.runtime.checkpoints.os.system"):
        config = json.loads((folder / "config.json").read_text())
        config["model"]["init_args"]["network"]["class_path"] = text
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"names {text}"):
            DSM.from_pretrained(folder, trust=Net.__module__)
    assert "evil" not in sys.modules


DAMAGE = {
    "no config": ("config.json", None, "has no config.json"),
    "no JSON": ("config.json", b"{", "is damaged"),
    "no model": ("config.json", b'{"model": 3}', "is damaged"),
    "no weights": ("model.safetensors", None, "has no model.safetensors"),
    "half of the weights": ("model.safetensors", b"abc", "is damaged"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused(folder, name, content, message):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        DSM.from_pretrained(folder, trust=Net.__module__)


def test_a_folder_of_another_class_or_of_other_weights_is_refused(folder):
    with pytest.raises(ValueError, match="is no NCSN"):
        NCSN.from_pretrained(folder, trust=Net.__module__)
    DSM(MLP(hidden_dim=8)).save_pretrained(folder.parent / "other")
    (folder.parent / "other/model.safetensors").rename(folder / "model.safetensors")
    assert load_file(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"is no DSM.*size mismatch"):
        DSM.from_pretrained(folder, trust=Net.__module__)
