"""The synthetic street scenes: reproducible bytes, exact labels, stated class shares, and a real shift of domain."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from halo_ray.data.synthetic import CLASSES, STYLES, render_scene

SCENES = 200
COMMON = {"road": (0.15, 0.35), "building": (0.15, 0.35), "sky": (0.15, 0.35)}
RARE = {
    "fence": (0.01, 0.02),
    "pole": (0.01, 0.02),
    "sign": (0.002, 0.005),
    "person": (0.003, 0.01),
    "bicycle": (0.001, 0.004),
}


def digest(style: str, seed: int, index: int, **size: int) -> str:
    image, label = render_scene(style, seed, index, **size)
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def pools() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The first scenes of each style: images (N, 128, 256, 3) and labels (N, 128, 256)."""
    scenes = {style: [render_scene(style, 11, index) for index in range(SCENES)] for style in STYLES}
    return {style: (np.stack([s[0] for s in pool]), np.stack([s[1] for s in pool])) for style, pool in scenes.items()}


def shares(label: np.ndarray) -> np.ndarray:
    return np.bincount(label.ravel(), minlength=len(CLASSES)) / label.size


@pytest.mark.parametrize("style", STYLES)
def test_another_process_renders_the_same_bytes_in_another_order(style: str) -> None:
    here = [digest(style, 3, index) for index in range(4)]
    code = (
        "import hashlib\n"
        "from halo_ray.data.synthetic import render_scene\n"
        "render_scene('source', 9, 9, height=64, width=128)\n"
        "for index in (3, 1, 2, 0):\n"
        f"    image, label = render_scene({style!r}, 3, index)\n"
        "    print(hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest())\n"
    )
    path = "import sys; sys.path[:0] = " + repr(sys.path) + "\n"
    out = subprocess.run([sys.executable, "-c", path + code], check=True, capture_output=True, text=True).stdout
    assert out.split() == [here[index] for index in (3, 1, 2, 0)]


def test_style_seed_index_and_size_each_give_another_scene() -> None:
    scenes = [
        digest("source", 0, 0),
        digest("target", 0, 0),
        digest("source", 1, 0),
        digest("source", 0, 1),
        digest("source", 0, 0, height=256, width=128),
    ]
    assert len(set(scenes)) == len(scenes)


def test_a_scene_is_not_touched_by_writing_into_an_earlier_one() -> None:
    before = digest("target", 0, 5)
    for array in render_scene("target", 0, 5):
        array[:] = 0
    assert digest("target", 0, 5) == before


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(128, 256), (64, 128), (96, 200), (200, 96), (32, 32), (33, 257)])
def test_shapes_types_and_labels_at_any_size(style: str, size: tuple[int, int]) -> None:
    for index in range(5):
        image, label = render_scene(style, 0, index, height=size[0], width=size[1])
        assert image.shape == (*size, 3)
        assert label.shape == size
        assert image.dtype == label.dtype == np.uint8
        assert image.flags.c_contiguous
        assert label.flags.c_contiguous
        assert label.max() < len(CLASSES)


@pytest.mark.parametrize("style", STYLES)
def test_layout_keeps_its_shares_when_the_size_changes(style: str, pools: dict) -> None:
    small = np.stack([render_scene(style, 11, index, height=64, width=128)[1] for index in range(SCENES)])
    assert np.abs(shares(small) - shares(pools[style][1])).sum() < 0.12


@pytest.mark.parametrize("style", STYLES)
def test_class_shares_are_as_stated(style: str, pools: dict) -> None:
    share = dict(zip(CLASSES, shares(pools[style][1]), strict=True))
    for name, (low, high) in {**COMMON, **RARE}.items():
        assert low <= share[name] <= high, f"{name}: {share[name]:.4f}"
    assert min(share.values()) > 0, "every class appears"
    assert all(share[rare] < share[other] for rare in ("sign", "person", "bicycle") for other in ("tree", "car"))


@pytest.mark.parametrize("style", STYLES)
def test_rare_classes_are_absent_from_some_scenes(style: str, pools: dict) -> None:
    for name in ("fence", "sign", "person", "bicycle"):
        present = (pools[style][1] == CLASSES.index(name)).any(axis=(1, 2)).mean()
        assert 0.3 < present < 1, name


@pytest.mark.parametrize("style", STYLES)
def test_sky_lies_above_road(style: str, pools: dict) -> None:
    rows = np.arange(128)[None, :, None]
    sky, road = (pools[style][1] == CLASSES.index(name) for name in ("sky", "road"))
    assert (np.where(sky, rows, -1).max(axis=(1, 2)) < np.where(road, rows, 128).min(axis=(1, 2))).all()


def test_target_has_other_class_frequencies(pools: dict) -> None:
    source, target = (shares(pools[style][1]) for style in STYLES)
    assert np.abs(source - target).sum() > 0.12
    ratio = dict(zip(CLASSES, target / source, strict=True))
    assert ratio["person"] > 1.3
    assert ratio["tree"] > 1.4
    assert ratio["car"] < 0.8


def test_target_is_darker_and_noisier(pools: dict) -> None:
    source, target = (pools[style][0].astype(np.float32) for style in STYLES)
    assert target.mean() < 0.75 * source.mean()
    sky = CLASSES.index("sky")
    noise = []
    for images, labels in pools.values():  # the sky has no edges along a row: what differs there is noise
        step = np.abs(np.diff(images.astype(np.float32), axis=2)).mean(axis=3)
        noise.append(step[(labels[:, :, 1:] == sky) & (labels[:, :, :-1] == sky)].mean())
    assert noise[1] > 1.5 * noise[0]


def colour_histograms(images: np.ndarray, labels: np.ndarray, bins: int = 16) -> np.ndarray:
    """Smoothed log-likelihood of a quantised colour in each class: (classes, bins ** 3)."""
    step = 256 // bins
    code = (images // step).astype(np.int64) @ np.array([bins * bins, bins, 1])
    count = np.bincount((labels.astype(np.int64) * bins**3 + code).ravel(), minlength=len(CLASSES) * bins**3)
    count = count.reshape(len(CLASSES), -1) + 0.1
    return np.log(count / count.sum(axis=1, keepdims=True))


def colour_accuracy(model: np.ndarray, images: np.ndarray, labels: np.ndarray, bins: int = 16) -> float:
    """Class-averaged accuracy of labelling each pixel by its colour alone."""
    code = (images // (256 // bins)).astype(np.int64) @ np.array([bins * bins, bins, 1])
    predicted = model.argmax(axis=0)[code]
    return float(np.mean([(predicted[labels == c] == c).mean() for c in range(len(CLASSES))]))


def test_colours_learnt_on_source_mislead_on_target_but_target_can_be_learnt(pools: dict) -> None:
    half = SCENES // 2
    held_out = tuple(array[half:] for array in pools["target"])
    from_source = colour_accuracy(colour_histograms(*pools["source"]), *held_out)
    from_target = colour_accuracy(colour_histograms(*(array[:half] for array in pools["target"])), *held_out)
    assert from_target > 2 * from_source, (from_source, from_target)


@pytest.mark.parametrize("style", ["night", "Source", ""])
def test_unknown_style_is_named_with_the_known_ones(style: str) -> None:
    with pytest.raises(ValueError, match=f"unknown style '{style}'.*source, target"):
        render_scene(style, 0, 0)


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (0, 64), (-128, 256)])
def test_too_small_a_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"at least 32 pixels, got {size[0]} and {size[1]}"):
        render_scene("source", 0, 0, height=size[0], width=size[1])


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_seed_or_index_is_refused(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        render_scene("source", seed, index)
