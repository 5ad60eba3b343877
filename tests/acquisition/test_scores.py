"""Acquisition maps against the official implementation's, and against their definitions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from halo_ray.acquisition.maps import Maps, impurity
from halo_ray.acquisition.scores import ACQUISITIONS, acquisition_map, acquisition_maps, describe_pixels
from halo_ray.errors import InputError
from halo_ray.geometry import max_radius, radius

VECTORS = np.load(Path(__file__).parents[1] / "reference" / "acquisition.npz")
LOGITS = torch.from_numpy(VECTORS["score/logits"]).double()
BALL = torch.from_numpy(VECTORS["score/ball"])
SIZE = (48, 96)


def relative_difference(ours: torch.Tensor, reference: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("radius_x_region_entropy", {}),
        ("radius_x_region_entropy_normalized", {"normalize": "minmax"}),
        ("radius_x_pixel_entropy_normalized", {"normalize": "minmax", "uncertainty": "pixel"}),
    ],
)
def test_halo_is_the_official_map(key: str, options: dict) -> None:
    ours = acquisition_map("halo", LOGITS, BALL, SIZE, curvature=1.0, **options)[0]
    scale = 1.0 if options else max_radius(1.0, torch.float64)  # ours is divided by R_max where it is not normalized
    assert ours.dtype == torch.float32
    # The official entropy adds 1e-6 inside the log.
    assert relative_difference(ours * scale, VECTORS[f"score/{key}"]) < 1e-4


@pytest.mark.parametrize("name", ["ripu", "hyperbolic_impurity"])
def test_impurity_times_entropy_is_the_official_map(name: str) -> None:
    key = {"ripu": "ripu", "hyperbolic_impurity": "hyperbolic_impurity_x_entropy"}[name]
    ours = acquisition_map(name, LOGITS, BALL, SIZE, curvature=1.0)[0]
    assert relative_difference(ours, VECTORS[f"score/{key}"]) < 1e-4


def test_factors_of_impurity_maps_are_the_official_ones() -> None:
    maps = Maps(LOGITS, BALL, SIZE, curvature=1.0)
    purity, uncertainty = "score/ripu/purity", "score/ripu/uncertainty"
    assert relative_difference(impurity(maps.guess, 19, 1)[0], VECTORS[purity]) < 1e-4
    assert relative_difference(maps.mean_uncertainty(1)[0], VECTORS[uncertainty]) < 1e-4
    purity = "score/hyperbolic_impurity_x_entropy/purity"
    assert relative_difference(impurity(maps.radius_bins, 100, 1)[0], VECTORS[purity]) < 1e-4


def test_a_region_of_one_pixel_still_has_an_impurity() -> None:
    for name in ("ripu", "hyperbolic_impurity"):
        one, three = (acquisition_map(name, LOGITS, BALL, SIZE, curvature=1.0, region_radius=r) for r in (0, 1))
        assert torch.equal(one, three)


def test_radius_is_the_official_one() -> None:
    ours = acquisition_map("radius", LOGITS, BALL, SIZE, curvature=1.0)[0]
    assert relative_difference(ours, VECTORS["score/radius_full"][0]) < 1e-6


def test_euclidean_radius_is_the_norm() -> None:
    ours = acquisition_map("radius", LOGITS, BALL, SIZE, curvature=0.0)[0]
    expected = F.interpolate(BALL, size=SIZE, mode="bilinear", align_corners=True).norm(dim=1)[0]
    torch.testing.assert_close(ours, expected.float())


def test_entropy_is_one_where_all_classes_are_as_likely() -> None:
    flat = acquisition_map("entropy", torch.zeros(1, 7, 3, 3), BALL, (9, 9), curvature=1.0, uncertainty="pixel")
    torch.testing.assert_close(flat, torch.ones(1, 9, 9))
    summed = acquisition_map("entropy", torch.zeros(1, 7, 3, 3), BALL, (9, 9), curvature=1.0)[0]
    assert summed[4, 4] == pytest.approx(9)
    assert summed[0, 0] == pytest.approx(4)  # zero padding


def test_random_depends_on_image_and_seed_alone() -> None:
    def scores(ids: list[str], seed: int) -> torch.Tensor:
        logits = torch.randn(len(ids), 3, 2, 2)
        return acquisition_map("random", logits, logits, (8, 8), curvature=1.0, image_ids=ids, seed=seed)

    both = scores(["a", "b"], 0)
    assert torch.equal(both.flip(0), scores(["b", "a"], 0))
    assert torch.equal(both[1:], scores(["b"], 0))
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, scores(["a", "b"], 1))


def test_margin_and_least_confidence_of_known_probabilities() -> None:
    p = torch.tensor([0.5, 0.3, 0.2])
    logits = p.log()[None, :, None, None].expand(1, 3, 2, 2)
    for name, expected in (("margin", 0.8), ("least_confidence", 0.5)):
        found = acquisition_map(name, logits, BALL, (4, 4), curvature=1.0)
        torch.testing.assert_close(found, torch.full((1, 4, 4), expected))
    tied = acquisition_map("margin", torch.zeros(1, 3, 2, 2), BALL, (4, 4), curvature=1.0)
    torch.testing.assert_close(tied, torch.ones(1, 4, 4))


def test_several_functions_of_one_pass_are_those_of_single_passes() -> None:
    maps = Maps(LOGITS, BALL, SIZE, curvature=1.0, image_ids=["a"])
    together = acquisition_maps(ACQUISITIONS, maps)
    assert list(together) == list(ACQUISITIONS)
    for name, score in together.items():
        alone = acquisition_map(name, LOGITS, BALL, SIZE, curvature=1.0, image_ids=["a"])
        assert torch.equal(score, alone)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scores.py").write_text(
        "import torch\n"
        "def doubt(maps):\n    return maps.per_pixel(lambda logits: 1 - logits.softmax(1).amax(1))\n"
        "def flat(maps):\n    return torch.zeros(3)\n"
        "number = 7\n"
        "def wrong(maps):\n    raise KeyError('no such thing')\n"
    )
    (tmp_path / "my_broken_scores.py").write_text("def score(:\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own_module")
def test_a_users_own_function_by_its_dotted_path() -> None:
    own = acquisition_map("my_scores.doubt", LOGITS, BALL, SIZE, curvature=1.0)
    assert torch.equal(own, acquisition_map("least_confidence", LOGITS, BALL, SIZE, curvature=1.0))


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_scores.missing", "'my_scores' has no 'missing'"),
        ("my_scores.number", "'my_scores.number' is no function"),
        ("my_scores.flat", r"my_scores.flat gave shape \(3,\): .* \(1, 48, 96\)"),
        ("no_such_module.score", "cannot import 'no_such_module'"),
        ("my_broken_scores.score", r"importing 'my_broken_scores' .* failed \(SyntaxError"),
        ("my_scores.wrong", r"acquisition function my_scores.wrong failed \(KeyError: 'no such thing'\)"),
        ("..halo", "no function '..halo'"),
        ("halo.", "no function 'halo.'"),
    ],
)
def test_a_users_own_function_that_cannot_be_used_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        acquisition_map(name, LOGITS, BALL, SIZE, curvature=1.0)


def test_unknown_function_is_named_with_its_nearest() -> None:
    with pytest.raises(InputError, match=r"'hallo'.*did you mean 'halo'"):
        acquisition_map("hallo", LOGITS, BALL, SIZE, curvature=1.0)


def test_description_of_pixels_reads_the_upsampled_maps() -> None:
    y, x = torch.tensor([0, 17, 47, 30]), torch.tensor([0, 40, 95, 3])
    said = describe_pixels(LOGITS, BALL, y, x, SIZE, curvature=1.0)
    p = F.interpolate(LOGITS, size=SIZE, mode="bilinear", align_corners=True).softmax(1)[0][:, y, x].T
    vectors = F.interpolate(BALL, size=SIZE, mode="bilinear", align_corners=True)[0][:, y, x].T
    torch.testing.assert_close(said.radius, radius(vectors, 1.0))
    torch.testing.assert_close(said.entropy, -(p * p.log()).sum(1) / math.log(19))
    assert said.guess.tolist() == p.argmax(1).tolist()
    torch.testing.assert_close(said.probability, p.amax(1))
