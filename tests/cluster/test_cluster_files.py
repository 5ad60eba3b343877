"""What the files in cluster/ have in common: one image, one version, options that exist, no secret."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from types import ModuleType

import pytest
from cluster_files import CLOUDS, CLUSTER, IMAGE, KUBERAY, PRESETS, ROOT, load, parse, pinned, pods, ray_cluster

from halo_ray.config import parse_config
from halo_ray.errors import InputError

CODE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_all_files_name_the_same_image_and_ray() -> None:
    images = [load(cloud)["docker"]["image"] for cloud in CLOUDS]
    images += [pod["containers"][0]["image"] for name in KUBERAY for pod in pods(name)]
    assert set(images) == {IMAGE}
    assert {ray_cluster(name)["rayVersion"] for name in KUBERAY} == {pinned("ray")}


def instructions(name: str = "Dockerfile") -> list[tuple[str, str]]:
    """The instructions of the Dockerfile in order, comments left out and continued lines joined."""
    lines = [line for line in (CLUSTER / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_the_image_is_pinned_and_not_root() -> None:
    found = instructions()
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", found[0][1])
    assert found[0][0] == "FROM"
    assert [rest for word, rest in found if word == "USER"] == ["ray"]
    assert ("USER", "ray") in found[-2:]
    assert ("ARG", f"TORCH={pinned('torch')}") in found
    for rest in (rest for word, rest in found if word == "RUN" and "pip install" in rest):
        words = rest.partition("pip install")[2].split()
        assert "-c constraints.txt" in rest
        named = [word for word in words if re.match(r"(torch|google)", word)]
        assert all(re.search(r"==\S+", word) for word in named)


def test_the_image_has_both_devices_and_refuses_others() -> None:
    torch = next(rest for word, rest in instructions() if word == "RUN" and "torch==" in rest)
    assert ("ARG", "DEVICE=cuda") in instructions()
    assert re.search(r"cpu\) index=\"--extra-index-url https://download.pytorch.org/whl/cpu\" ;;", torch)
    assert re.search(r"cuda\) index= ;;", torch)
    assert re.search(r"\*\) echo .* exit 1", torch)


def test_the_image_has_what_ray_up_and_kuberay_call() -> None:
    apt = next(rest for word, rest in instructions() if word == "RUN" and "apt-get" in rest)
    assert {"bash", "openssh-client", "procps", "rsync", "wget"} <= set(apt.split())
    settings = " ".join(rest for word, rest in instructions() if word == "ENV").split()
    assert {"HOME=/home/ray", "RAY_AUTH_MODE=token"} <= set(settings)
    assert ("WORKDIR", "/home/ray/halo_ray") in instructions()


def test_code_changes_build_no_dependencies_again() -> None:
    words = [(word, rest) for word, rest in instructions() if word in ("COPY", "RUN")]
    everything = next(i for i, (word, rest) in enumerate(words) if word == "COPY" and rest.endswith(". ."))
    assert not any("pip install" in rest for _, rest in words[everything:])
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().split("\n")
    assert {".git", "**/.venv", "runs", "**/auth_token"} <= set(ignored)


def commands(text: str) -> list[str]:
    """The command lines in a text, comment marks of YAML left out and continued lines joined."""
    lines = [re.sub(r"^\s*#\s?", "", line) for line in text.splitlines()]
    return [line.strip() for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()]


def job_lines() -> list[tuple[str, list[str]]]:
    """All commands `python jobs/NAME.py ...` in the README's code and in the files: name and arguments."""
    texts = ["\n".join(CODE.findall((CLUSTER / "README.md").read_text()))]
    texts += [path.read_text() for path in sorted(CLUSTER.glob("*.yaml"))]
    found = [re.search(r"python jobs/(\w+)\.py(.*)", line) for text in texts for line in commands(text)]
    return [(match[1], shlex.split(match[2], comments=True)) for match in found if match]


def test_every_job_that_the_documents_start_exists() -> None:
    names = {name for name, _ in job_lines()}
    assert {"run_al", "sweep"} <= names
    assert [name for name in sorted(names) if not (ROOT / "jobs" / f"{name}.py").exists()] == []


def test_every_option_of_run_al_that_the_documents_give_exists() -> None:
    lines = [arguments for name, arguments in job_lines() if name == "run_al"]
    assert len(lines) >= 8
    for arguments in lines:
        parse(arguments)
    with pytest.raises(InputError, match=r"execution\.device"):
        parse(["--execution.devise", "cuda"])


def test_every_option_of_the_sweep_that_the_documents_give_exists(job: Callable[[str], ModuleType]) -> None:
    lines = [arguments for name, arguments in job_lines() if name == "sweep"]
    assert lines
    for arguments in lines:
        _, rest = job("sweep")._parse(arguments)
        parse_config(rest, PRESETS)


def test_no_file_holds_a_secret() -> None:
    for path in CLUSTER.iterdir():
        text = path.read_text()
        assert not re.search(r"\b[0-9a-f]{64}\b|AKIA[0-9A-Z]{16}|-----BEGIN|RAY_AUTH_TOKEN=[^$]", text), path.name
