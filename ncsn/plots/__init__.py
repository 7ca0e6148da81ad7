"""Pictures, from tensors. Nothing here knows about training."""

from ncsn.plots.curves import (
    plot_classes,
    plot_comparison,
    plot_diagnosis,
    plot_levels,
    plot_losses,
)
from ncsn.plots.images import (
    animate,
    image_grid,
    is_png,
    plot_annealing,
    plot_neighbours,
    plot_restorations,
    save_pngs,
)
from ncsn.plots.plane import plane_grid, plot_fields, plot_samples, plot_score_fields
from ncsn.plots.style import Animation, Picture, new_figure, optional, save

__all__ = [
    "Animation",
    "Picture",
    "animate",
    "image_grid",
    "is_png",
    "new_figure",
    "optional",
    "plane_grid",
    "plot_annealing",
    "plot_classes",
    "plot_comparison",
    "plot_diagnosis",
    "plot_fields",
    "plot_levels",
    "plot_losses",
    "plot_neighbours",
    "plot_restorations",
    "plot_samples",
    "plot_score_fields",
    "save",
    "save_pngs",
]
