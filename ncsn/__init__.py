"""Score-based generative modelling with noise-conditional score networks.

The maths is plain torch and can be used without the rest:

- :mod:`ncsn.noise`: noise levels, perturbation, noise that can be drawn again
- :mod:`ncsn.objectives`: denoising score matching
- :mod:`ncsn.networks`: networks, called as ``network(x, sigma)``
- :mod:`ncsn.sampling`: Langevin dynamics, annealed Langevin dynamics, DPM-Solver++

On top of it stand the LightningModules in :mod:`ncsn.modules`, the datamodules in
:mod:`ncsn.data`, and the command line, ``python -m ncsn``.
"""

__version__ = "0.1.0"
