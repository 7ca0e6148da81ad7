import pytest
import torch
from PIL import Image

from ncsn import plots


def test_uint8_is_x_over_2_plus_a_half_clamped():
    images = torch.tensor([-5.0, -1.0, 0.0, 1.0, 5.0])
    assert plots.to_uint8(images).tolist() == [0, 0, 128, 255, 255]


def test_uint8_images_survive_the_way_to_floats_and_back():
    images = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(plots.to_uint8(images.float() / 127.5 - 1), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_shows_every_image_in_its_cell(channels):
    images = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, channels, 8, 8)
    grid = plots.image_grid(images, columns=3)
    cell = 64 + 2
    assert grid.shape == (3, 2 * cell + 2, 3 * cell + 2)
    centres = grid[0, cell // 2 :: cell, cell // 2 :: cell]
    assert centres.flatten().tolist() == plots.to_uint8(images[:, 0, 0, 0]).tolist()


def test_gif_has_its_frames_and_rests_on_the_last(tmp_path):
    frames = [torch.rand(4, 1, 8, 8) * 2 - 1 for _ in range(5)]
    plots.save_gif(frames, tmp_path / "a.gif", seconds=1.0)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 5
        assert gif.info["duration"] == 200
        gif.seek(4)
        assert gif.info["duration"] == 2000


def test_figures_label_their_axes():
    points = torch.randn(50, 2)
    score = plots.plot_score_field(points, points, -points, "field")
    samples = plots.plot_samples(points, points, "samples")
    losses = plots.plot_losses({"train": [(1, 2.0), (2, 1.0)], "validation": [(2, 1.5)]})
    for figure in (score, samples, losses):
        for axes in figure.axes[:2]:
            assert axes.get_xlabel() or axes.get_ylabel()
    black = torch.zeros(3, 1, 8, 8)
    annealing = plots.plot_annealing([(1.0, black), (0.1, black)])
    assert [axes.get_ylabel() for axes in annealing.axes] == ["1", "0.1"]


def test_plane_grid_covers_the_data():
    data = torch.randn(100, 2)
    grid = plots.plane_grid(data, num=5)
    assert grid.shape == (25, 2)
    assert (grid.amin(0) < data.amin(0)).all()
    assert (grid.amax(0) > data.amax(0)).all()
