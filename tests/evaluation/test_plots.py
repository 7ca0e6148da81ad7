"""Pictures: what is in them, and how they are written."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from ncsn import plots


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_in_its_cell(channels):
    grey = torch.tensor([0, 50, 100, 150, 200, 255], dtype=torch.uint8)
    images = grey.view(6, 1, 1, 1).expand(6, channels, 8, 8)
    grid = pil_to_tensor(plots.image_grid(images, columns=3))
    cell = 64 + 2  # eight pixels, enlarged by eight, and the gap
    assert grid.shape == (3, 2 * cell + 2, 3 * cell + 2)
    for channel in grid:
        assert channel[cell // 2 :: cell, cell // 2 :: cell].flatten().tolist() == grey.tolist()


def test_a_grid_is_nearly_square_by_default():
    grid = plots.image_grid(torch.zeros(9, 1, 64, 64, dtype=torch.uint8))
    assert grid.size == (3 * 66 + 2, 3 * 66 + 2)


def test_an_animation_has_its_frames_and_rests_on_the_last(tmp_path):
    frames = [(f"{i}", torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)) for i in range(5)]
    path = plots.save(plots.animate(frames, seconds=1.0), tmp_path / "a")
    assert path == tmp_path / "a.gif"
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.info["duration"] == 200
        gif.seek(4)
        assert gif.info["duration"] == 2000


def test_pictures_are_written_as_png_into_new_directories(tmp_path):
    grid = plots.image_grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    figure = plots.plot_losses({"train": [(1, 2.0), (2, 1.0)]})
    for name, picture in {"grid": grid, "step=0.5": figure}.items():
        path = plots.save(picture, tmp_path / "new" / name)
        assert path == tmp_path / "new" / f"{name}.png"
        with Image.open(path) as image:
            assert image.format == "PNG"


def test_figures_label_their_axes():
    points = torch.randn(50, 2)
    score = plots.plot_score_fields(points, points, [(1.0, -points), (0.1, -points)])
    samples = plots.plot_samples(points, points, "samples")
    losses = plots.plot_losses({"train": [(1, 2.0), (2, 1.0)], "validation": [(2, 1.5)]})
    for figure in (score, samples, losses):
        for axes in figure.axes[:2]:  # panels that share an axis name it once
            assert any(each.get_xlabel() for each in axes.get_shared_x_axes().get_siblings(axes))
            assert any(each.get_ylabel() for each in axes.get_shared_y_axes().get_siblings(axes))
    black = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    annealing = plots.plot_annealing([(1.0, black, black), (0.1, black, black)])
    assert [axes.get_ylabel() for axes in annealing.axes] == ["1", "", "0.1", ""]
    assert [bool(axes.get_title()) for axes in annealing.axes] == [True, True, False, False]


def test_a_caption_stands_above_the_grid_and_changes_nothing_in_it():
    images = torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8)
    plain = pil_to_tensor(plots.image_grid(images))
    with_caption = pil_to_tensor(plots.image_grid(images, caption="σ = 0.1, step 1,000"))
    above = with_caption.shape[1] - plain.shape[1]
    assert above > 0
    assert torch.equal(with_caption[:, above:], plain)
    assert (with_caption[:, :above] < 100).any()  # black on white
    assert (with_caption[:, :above] == 255).float().mean() > 0.8


def test_points_outside_of_the_picture_count_in_the_density():
    data = torch.rand(1000, 2)
    half = torch.cat([data, data + 100])
    figure = plots.plot_samples(data, half, "samples")
    first, second = (
        axes.images[0].get_array() for axes in figure.axes if axes.get_title() == "density"
    )
    np.testing.assert_allclose(second, first / 2)


@pytest.mark.parametrize("stretch", [(1.0, 1.0), (4.0, 1.0), (1.0, 3.0)])
def test_points_stand_beside_data_in_a_figure_of_their_shape(stretch):
    data = torch.rand(1000, 2) * torch.tensor(stretch)
    figure = plots.plot_samples(data, data.flip(0), "samples")
    figure.draw_without_rendering()
    top = [axes for axes in figure.axes if axes.get_title() in ("data (1,000 points)", "samples")]
    densities = [axes for axes in figure.axes if axes.get_title() == "density"]
    assert len(top) == len(densities) == 2
    first, second = (axes.images[0] for axes in densities)
    assert first.get_clim() == second.get_clim()  # one scale, so that colours compare
    assert (first.get_array() == second.get_array()).all()
    for axes in top:  # little of the figure is empty
        box, given = axes.get_position(), axes.get_subplotspec().get_position(figure)
        assert box.width > 0.6 * given.width
        assert box.height > 0.6 * given.height


def test_a_learned_field_that_is_exact_can_be_drawn(tmp_path):
    data = torch.randn(100, 2)
    x = plots.plane_grid(data, num=64)
    figure = plots.plot_fields(data, x, [(0.1, -x, -x)])
    assert plots.save(figure, tmp_path / "fields").is_file()


def test_a_plane_grid_covers_the_data():
    data = torch.randn(100, 2)
    grid = plots.plane_grid(data, num=5)
    assert grid.shape == (25, 2)
    assert (grid.amin(0) < data.amin(0)).all()
    assert (grid.amax(0) > data.amax(0)).all()
