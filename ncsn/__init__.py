"""Score-based generative modelling with noise-conditional score networks.

Four floors; a module imports from its own floor and from those above it in this list:

- mathematics, plain torch without Lightning: :mod:`ncsn.config`, :mod:`ncsn.levels`,
  :mod:`ncsn.random`, :mod:`ncsn.diffusion`, :mod:`ncsn.objectives`,
  :mod:`ncsn.parametrisation`, :mod:`ncsn.exact`, :mod:`ncsn.networks`, :mod:`ncsn.optimizers`,
  :mod:`ncsn.sampling`
- evaluation, from tensors and score functions: :mod:`ncsn.evaluation`, :mod:`ncsn.plots`
- training with Lightning: :mod:`ncsn.modules`, :mod:`ncsn.data`, :mod:`ncsn.callbacks`
- the program, ``python -m ncsn``: :mod:`ncsn.runtime`, :mod:`ncsn.cli`
"""

__version__ = "0.1.0"
