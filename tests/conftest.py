"""Fixtures shared by all tests."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import ray
from PIL import Image
from small_experiments import small_config

from halo_ray import stored_config
from halo_ray.benchmarks.object_store import CREDENTIALS, ObjectStore, object_store
from halo_ray.checkpoint import load_model
from halo_ray.config import Config, config_from_yaml
from halo_ray.data.synthetic import CLASSES, render_scene
from halo_ray.execution import ExecutionConfig
from halo_ray.models.build import MODEL_FILE, WEIGHTS_FILE
from halo_ray.models.segmenter import Segmenter
from halo_ray.secret import Secrets
from halo_ray.storage import Storage
from halo_ray.verification import checkpoints

ROOT = Path(__file__).parents[1]
SIZES = {"day": (64, 96), "night": (72, 100), "check": (64, 96)}


def write_dataset(root: Path) -> Path:
    """Folders day, night and check with images, and labels of the images' own sizes; plus a class set file."""
    for number, (split, (height, width)) in enumerate(SIZES.items()):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").mkdir()
        for index in range(6):
            style = "source" if split == "day" else "target"
            image, label = render_scene(style, number, index, height=height, width=width)
            Image.fromarray(image).save(root / split / "images" / f"{index}.jpg")
            Image.fromarray(label).save(root / split / "labels" / f"{index}.png")
    (root / "classes.yaml").write_text(f"name: streets\nclasses: {list(CLASSES)}\n")
    return root


@pytest.fixture(autouse=True)
def own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test calls a secret is a word of another's sentences."""
    monkeypatch.setattr("halo_ray.secret._SECRETS", Secrets())


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A Ray cluster of this test run alone; its own short directory, since socket paths have a length limit."""
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])  # for own_scores
    with (
        pytest.MonkeyPatch.context() as environment,
        tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True) as directory,
    ):
        environment.setenv("PYTHONPATH", path)
        environment.setenv("RAY_num_workers_soft_limit", "8")
        ray.init(
            address="local",
            namespace="halo_ray",
            num_cpus=2,
            include_dashboard=True,
            _temp_dir=directory,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for key, value in CREDENTIALS.items():
            environment.setenv(key, value)
        yield


@pytest.fixture(scope="session")
def s3(s3_environment: None) -> Iterator[ObjectStore]:
    """An S3 protocol server for this test run, with its credentials in the environment."""
    with object_store() as store:
        yield store


@pytest.fixture
def s3_with_keys(s3_environment: None) -> Iterator[ObjectStore]:
    """One that knows none of the keys in the environment, once it has its bucket."""
    with object_store({"INITIAL_NO_AUTH_ACTION_COUNT": "1"}) as store:
        yield store


@pytest.fixture(scope="session")
def job() -> Callable[[str], ModuleType]:
    """Loads an entry point of jobs/ as a module, by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"jobs_{name}", ROOT / "jobs" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def experiment(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration of a finished experiment; tests must leave its directory as it is."""
    from halo_ray.experiment import run_experiment

    config = small_config(dataset, tmp_path_factory.mktemp("run") / "experiment")
    execution = ExecutionConfig(num_workers=0, max_actors=1, save_maps="picked", compare_functions=("entropy",))
    config = replace(config, execution=execution)
    run_experiment(config)
    return config


@pytest.fixture(scope="session")
def built_once() -> Iterator[None]:
    """Verification builds a network, and reads a configuration, once for each content: that takes most of its time."""
    built: dict[str, Segmenter] = {}

    def load_once(storage: Storage, name: str) -> Segmenter:
        files = [storage.read(f"{name}/{file}") for file in (MODEL_FILE, WEIGHTS_FILE)]
        key = hashlib.sha256(b"".join(files)).hexdigest()
        if key not in built:
            built[key] = load_model(storage, name)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "load_model", load_once)
        patch.setattr(stored_config, "config_from_yaml", cache(config_from_yaml))
        yield


@pytest.fixture
def configure(dataset: Path, tmp_path: Path) -> Callable[[], Config]:
    """A fresh configuration of the same experiment in a directory of its own."""
    return lambda: small_config(dataset, tmp_path / "experiment")
