r"""Pictures of a class-conditional model: its classes, guidance, inpainting, interpolation.

python tests/benchmarks/conditioning.py \
    --ckpt_path lightning_logs/mnist_classes/version_0/checkpoints/last.ckpt --data_dir data
"""

from pathlib import Path

import torch
from jsonargparse import auto_cli

from ncsn import plots
from ncsn.data import MNISTDataModule
from ncsn.evaluation.codec import to_float, to_uint8
from ncsn.modules import NCSN
from ncsn.random import InterpolatedGenerator, SampleGenerator
from ncsn.sampling import DPMSolver, Mask, Replacement, Resampling


@torch.inference_mode()
def draw_conditioning(
    ckpt_path: Path,
    data_dir: Path = Path("data"),
    output: Path = Path(),
    num_steps: int = 20,
    num_resamples: int = 10,
) -> None:
    """Write classes.png, inpainting.png and interpolation.png.

    Args:
        ckpt_path: Checkpoint of a class-conditional NCSN on MNIST.
        data_dir: Where MNIST is.
        output: Directory of the pictures.
        num_steps: Steps of DPM-Solver++, which draws the classes and the interpolation.
        num_resamples: How often inpainting takes each step in the last panel.
    """
    module = NCSN.load_from_checkpoint(ckpt_path, map_location="cpu").eval()
    solver, levels = DPMSolver(num_steps), module.noise_levels

    # One row a class; the same noise at each scale.
    label = torch.arange(10).repeat_interleave(10)
    panels = {}
    for scale in (1.0, 2.0, 4.0):
        module.guidance_scale = scale
        panels[f"guidance scale {scale:g}"] = module.draw(0, 100, label, sampler=solver)
    save(panels, output / "classes.png", columns=10)

    # The right half of ten test images is hidden; any class.
    data = MNISTDataModule(data_dir)
    data.setup("test")
    known = to_float(data.splits["test"].data[:10])
    mask = torch.ones(28, 28, dtype=torch.bool)
    mask[:, 14:] = False
    panels = {"test images": known, "known": torch.where(mask, known, 0.0)}
    variants = {"replacement": 1, f"each step taken {num_resamples} times": num_resamples}
    operator = Mask(module.data_shape, mask)
    score = Replacement()(module.score, operator, operator(known), noise=0.0)
    for name, num in variants.items():
        generator, sampler = SampleGenerator(0, 0, 10), Resampling(num_resamples=num)
        start = sampler.initial(known, levels, generator)
        panels[name] = sampler(score, start, levels, generator)
    save(panels, output / "inpainting.png", columns=10, vertical=True)

    # From one sample to another, along an arc of noise; any class.
    rows = [
        module.sample(10, sampler=solver, generator=InterpolatedGenerator(0, i, i + 1, 10))
        for i in range(0, 12, 2)
    ]
    save({"": torch.cat(rows)}, output / "interpolation.png", columns=10)


def save(
    panels: dict[str, torch.Tensor], path: Path, columns: int, *, vertical: bool = False
) -> None:
    """Write grids of images, each with its title, below each other or side by side."""
    num = len(panels)
    rows = sum(len(images) for images in panels.values()) / columns
    size = (4.5, 0.45 * rows + 0.25 * num) if vertical or num == 1 else (3.4 * num, 3.6)
    figure = plots.new_figure(*size)
    axes_of = figure.subplots(*((num, 1) if vertical else (1, num)), squeeze=False).flat
    for axes, (title, images) in zip(axes_of, panels.items(), strict=True):
        axes.imshow(plots.image_grid(to_uint8(images), columns))
        axes.set_title(title, fontsize="medium")
        axes.set_axis_off()
    figure.savefig(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    auto_cli(draw_conditioning, as_positional=False)
