"""Resizing, and the way of a bought pixel from the label map to its place in a resized and flipped network input."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from halo_ray.data.transforms import Augmentation, AugmentationConfig, Points, View
from halo_ray.errors import InputError
from halo_ray.models.sampling import at_places

SIZES = [(40, 72), (20, 36), (27, 31), (64, 100), (1, 5)]


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.array(View.whole(size).image(Image.fromarray(image)))


def changed(draw: Augmentation, image: np.ndarray) -> np.ndarray:
    return np.array(draw.image(Image.fromarray(image)))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def points(y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> Points:
    return Points.from_pixels(y, x, np.zeros(len(y), np.uint8), size)


def read(maps: torch.Tensor, places: Points) -> torch.Tensor:
    image = torch.zeros(len(places.y), dtype=torch.long)
    return at_places(maps, image, torch.from_numpy(places.y), torch.from_numpy(places.x))


@pytest.mark.parametrize("size", SIZES)
def test_images_are_resized_like_torch_with_antialiasing(size: tuple[int, int]) -> None:
    image = noise(40, 72, 3)
    expected = F.interpolate(
        torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float(), size=size, mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    resized = resize_image(image, size)
    assert resized.shape == (*size, 3)
    assert np.abs(resized - expected.numpy()).max() < 1.5  # it rounds to bytes after each of two passes


@pytest.mark.parametrize("size", [(40, 72), (24, 40), (64, 104), (8, 16)])  # no centre falls between two pixels
def test_a_resized_label_takes_the_pixel_under_each_centre(size: tuple[int, int]) -> None:
    label = noise(40, 72)
    rows = [int((i + 0.5) * 40 / size[0]) for i in range(size[0])]
    cols = [int((j + 0.5) * 72 / size[1]) for j in range(size[1])]
    np.testing.assert_array_equal(View(size, size).label(label), label[np.ix_(rows, cols)])


@pytest.mark.parametrize("side", [1, 2, 3, 1024, 2048, 65535])
def test_a_place_leads_back_to_its_pixel_and_flipped_to_the_mirrored_one(side: int) -> None:
    pixel = np.arange(side)
    place = points(pixel, pixel, (side, side))
    assert place.y.dtype == place.x.dtype == np.float32
    assert 0 <= place.x.min() <= place.x.max() <= 1
    flipped = Augmentation(True, 1.0, 1.0).points(place)
    np.testing.assert_array_equal(np.rint(place.x.astype(float) * (side - 1)), pixel)
    np.testing.assert_array_equal(np.rint(flipped.x.astype(float) * (side - 1)), pixel[::-1] if side > 1 else pixel)
    np.testing.assert_array_equal(flipped.y, place.y)
    np.testing.assert_array_equal(place.y, place.x)


@pytest.mark.parametrize("stride", [1, 4, 32])
def test_no_bought_pixel_is_lost_or_moved_by_a_smaller_input(stride: int) -> None:
    """A linear ramp, which bilinear reading reproduces, holds at each cell the label pixel that it lies over."""
    size, cells = (1024, 2048), (640 // stride, 1280 // stride)
    random = np.random.default_rng(0)
    flat = np.unique(np.concatenate([random.integers(0, size[0] * size[1], 60_000), [0, 2047, 2048, 1024 * 2048 - 1]]))
    y, x = np.divmod(flat, size[1])
    ramps = [torch.linspace(0, side - 1, n, dtype=torch.float64) for side, n in zip(size, cells, strict=True)]
    maps = torch.stack(torch.meshgrid(*ramps, indexing="ij"))[None]
    for dtype in (torch.float32, torch.float64):
        seen = read(maps.to(dtype), points(y, x, size)).round().numpy()
        np.testing.assert_array_equal(seen, np.stack([y, x], 1))


@pytest.mark.parametrize("size", [(6, 9), (17, 13)])
def test_a_flipped_image_shows_the_same_colour_at_the_flipped_place(size: tuple[int, int]) -> None:
    label_size = (12, 18)
    y, x = (axis.ravel() for axis in np.indices(label_size))
    place, image = points(y, x, label_size), resize_image(noise(12, 18, 3), size)
    flip = Augmentation(True, 1.0, 1.0)
    straight, mirrored = (
        torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() for pixels in (image, changed(flip, image))
    )
    assert not torch.equal(straight, mirrored)
    torch.testing.assert_close(read(mirrored, flip.points(place)), read(straight, place), atol=2e-3, rtol=0)


def test_flip_mirrors_image_and_label_columns_and_keeps_classes() -> None:
    image, label = noise(3, 4, 3), noise(3, 4)
    flip, keep = Augmentation(True, 1.0, 1.0), Augmentation(False, 1.0, 1.0)
    assert changed(flip, image).tolist() == [[row[3], row[2], row[1], row[0]] for row in image.tolist()]
    assert flip.label(label).tolist() == [row[::-1] for row in label.tolist()]
    np.testing.assert_array_equal(changed(keep, image), image)
    np.testing.assert_array_equal(keep.label(label), label)
    place = Points.from_pixels(np.array([0, 2]), np.array([1, 3]), np.array([5, 255], np.uint8), (3, 4))
    assert flip.points(place).label.tolist() == [5, 255]
    assert keep.points(place) == place


@pytest.mark.parametrize(("gain", "contrast"), [(1.2, 1.0), (1.0, 0.8), (0.85, 1.2), (1.2, 1.2)])
def test_colour_changes_follow_the_formula_at_every_level(gain: float, contrast: float) -> None:
    """contrast about mid-grey, then gain, clipped to bytes."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    shown = changed(Augmentation(False, gain, contrast), ramp)
    assert shown.dtype == np.uint8
    for before, after in zip(ramp.ravel().tolist(), shown.ravel().tolist(), strict=True):
        assert abs(after - min(max(((before - 127.5) * contrast + 127.5) * gain, 0), 255)) <= 1


def test_a_draw_is_fixed_by_seed_and_row_and_stays_in_its_range() -> None:
    draws = [Augmentation.draw(3, row, AugmentationConfig(color_jitter=0.2)) for row in range(1000)]
    assert draws == [Augmentation.draw(3, row, AugmentationConfig(color_jitter=0.2)) for row in range(1000)]
    assert len({(draw.gain, draw.contrast) for draw in draws}) == 1000
    assert draws[5] != Augmentation.draw(4, 5, AugmentationConfig(color_jitter=0.2))
    assert 400 < sum(draw.flip for draw in draws) < 600
    for values in ([draw.gain for draw in draws], [draw.contrast for draw in draws]):
        assert 0.8 <= min(values) < 0.81 < 1.19 < max(values) <= 1.2
        assert abs(np.mean(values) - 1) < 0.02


def test_what_is_turned_off_changes_nothing() -> None:
    image = noise(3, 4, 3)
    for row in range(50):
        draw = Augmentation.draw(0, row, AugmentationConfig(flip=False, color_jitter=0))
        np.testing.assert_array_equal(changed(draw, image), image)


class TestWindow:
    """A window of a scaled image: image, label and points must show the same place."""

    @pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
    @pytest.mark.parametrize("size", [(40, 60), (64, 64)])
    def test_label_and_points_agree_and_what_is_outside_is_left_out(self, scale: float, size: tuple[int, int]) -> None:
        """Every pixel of a label as a point, its row and its column as classes: both are found where it is placed."""
        shape = (80, 120)
        rows, cols = (axis.astype(np.uint8) for axis in np.indices(shape))
        draw = Augmentation(False, 1.0, 1.0, scale=scale, windows=((0.3, 0.8), (1.0, 0.0)))
        for view in draw.views(shape, size):
            scaled = [round(side * scale) for side in shape]
            part = [min(a, b) for a, b in zip(scaled, size, strict=True)]
            for label in (rows, cols):
                every = Points.from_pixels(*(axis.ravel() for axis in np.indices(shape)), label.ravel(), shape)
                shown, inside = view.label(label), view.points(every)
                assert shown.shape == size
                assert (shown[part[0] :] == 255).all()
                assert (shown[:, part[1] :] == 255).all()
                # As many pixels of the image lie in the window as it covers of the scaled one, an edge more or less.
                sides = [round(p / scale) for p in part]
                assert abs(len(inside.y) - sides[0] * sides[1]) <= 2 * sum(sides)
                row, col = np.rint(inside.y * (size[0] - 1)).astype(int), np.rint(inside.x * (size[1] - 1)).astype(int)
                # Corners aligned or centres: half a pixel of the sample apart at most, and half one of rounding.
                apart = np.abs(shown[row, col].astype(int) - inside.label)
                assert apart.max() <= (0 if scale == 1 else 1 + 1 / scale)

    def test_an_image_and_its_label_are_cut_at_the_same_place(self) -> None:
        label = np.repeat(np.repeat(np.random.default_rng(1).integers(0, 200, (10, 15)), 8, 0), 8, 1).astype(np.uint8)
        view = View((48, 48), (100, 150), top=17, left=60)
        shown, image = view.label(label), np.array(view.image(Image.fromarray(label).convert("RGB")))[..., 0]
        same = np.abs(shown.astype(int) - image) <= 1
        assert same.mean() > 0.6  # all but the borders of the squares, which bilinear sampling mixes
        inner = np.abs(np.diff(shown.astype(int), axis=0, prepend=shown[:1])) + np.abs(
            np.diff(shown.astype(int), axis=1, prepend=shown[:, :1])
        )
        assert same[(inner == 0) & (np.roll(inner, -1, 0) == 0) & (np.roll(inner, -1, 1) == 0)].mean() > 0.9

    def test_the_whole_image_is_a_resize_that_keeps_all_points(self) -> None:
        draw = Augmentation.draw(0, 0, AugmentationConfig())
        (view,) = draw.views((100, 200), (40, 60))
        image = noise(100, 200, 3)
        np.testing.assert_array_equal(view.image(Image.fromarray(image)), resize_image(image, (40, 60)))
        y, x = (axis.ravel() for axis in np.indices((100, 200)))
        every = points(y, x, (100, 200))
        assert view.points(every) is every

    def test_windows_reach_every_corner_and_scales_their_range(self) -> None:
        config = AugmentationConfig(random_scale=(0.5, 2.0))
        views = [next(Augmentation.draw(0, row, config).views((100, 200), (50, 60))) for row in range(2000)]
        heights = [view.scaled[0] for view in views]
        assert 50 <= min(heights) < 52
        assert 198 < max(heights) <= 200
        gaps = [(view.top, view.scaled[0] - 50 - view.top) for view in views]
        assert min(min(gap) for gap in gaps) == 0
        assert np.mean([first - last for first, last in gaps]) == pytest.approx(0, abs=4)


@pytest.mark.parametrize("saturation", [0.0, 0.5, 1.5])
def test_saturation_blends_with_the_grey_of_the_image(saturation: float) -> None:
    image = noise(20, 30, 3)
    grey = (image.astype(float) @ [0.299, 0.587, 0.114])[..., None]  # ITU-R 601
    expected = np.clip(grey + saturation * (image - grey), 0, 255)
    shown = changed(Augmentation(False, 1.0, 1.0, saturation=saturation), image)
    assert np.abs(shown - expected).max() < 2


@pytest.mark.parametrize(("hue", "expected"), [(1 / 3, (0, 255, 0)), (-1 / 3, (0, 0, 255)), (0.5, (0, 255, 255))])
def test_hue_turns_red_round_the_circle(hue: float, expected: tuple[int, ...]) -> None:
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    shown = changed(Augmentation(False, 1.0, 1.0, hue=hue), red)
    assert np.abs(shown.astype(int) - expected).max() <= 6
    grey = np.full((2, 2, 3), 77, np.uint8)
    np.testing.assert_array_equal(changed(Augmentation(False, 1.0, 1.0, hue=hue), grey), grey)


@pytest.mark.parametrize(
    ("key", "value"),
    [("color_jitter", 1.5), ("saturation_jitter", -0.1), ("hue_jitter", 0.6), ("random_scale", (2.0, 1.0)),
     ("random_scale", (0.0, 1.0))],
)  # fmt: skip
def test_changes_out_of_range_are_named(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"training\.augment\.{key} is"):
        AugmentationConfig(**{key: value})
