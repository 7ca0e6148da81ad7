import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.parametrize(
    "module",
    [
        "noise",
        "diffusion",
        "objectives",
        "exact",
        "networks",
        "networks.preconditioning",
        "sampling",
    ],
)
def test_the_maths_works_without_lightning(module):
    code = f"import sys, ncsn.{module}; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_importing_the_package_does_not_import_torch():
    code = "import sys, ncsn; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
