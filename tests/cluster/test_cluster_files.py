"""The files in cluster/: valid for the tools that read them, safe by default, and in step with the code."""

from __future__ import annotations

import copy
import json
import logging
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import jsonschema
import pytest
import ray.autoscaler
import yaml
from moto import mock_aws
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from halo_ray.config import parse_config
from halo_ray.errors import InputError

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PRESETS = ROOT / "jobs" / "presets"
CLOUDS = {"aws": "s3://BUCKET", "gcp": "gs://BUCKET"}
KUBERAY = ("kuberay-rayjob", "kuberay-raycluster")
CODE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
IMAGE = f"REGISTRY/halo_ray:{VERSION}-cuda"


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def pinned(package: str) -> str:
    """The version in constraints.txt."""
    found = re.search(rf"^{package}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def changed(tree: Any, change: Callable[[Any], None]) -> Any:
    tree = copy.deepcopy(tree)
    change(tree)
    return tree


# --- ray up -----------------------------------------------------------------------------------------------------------


def ray_schema() -> Any:
    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_up_accepts_the_file(cloud: str) -> None:
    jsonschema.validate(load(cloud), ray_schema())
    validate_config(prepare_config(load(cloud)))


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(idle_timeout_minute=tree.pop("idle_timeout_minutes")),
        lambda tree: tree.update(max_workers="12"),
        lambda tree: tree["docker"].update(images=tree["docker"].pop("image")),
        lambda tree: tree["available_node_types"]["gpu"].update(min_worker=0),
        lambda tree: tree["available_node_types"]["gpu"]["resources"].update(GPU="one"),
        lambda tree: tree["available_node_types"]["gpu"].pop("node_config"),
    ],
)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_up_refuses_a_typing_mistake(cloud: str, change: Callable[[Any], None]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(load(cloud), change), ray_schema())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_only_the_head_is_always_there_and_it_has_no_work(cloud: str) -> None:
    config = prepare_config(load(cloud))
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert {name: node["min_workers"] for name, node in types.items()} == {"cpu": 0, "gpu": 0}
    assert [types[name]["resources"]["GPU"] for name in ("cpu", "gpu")] == [0, 1]
    assert all(node["resources"]["CPU"] > 0 and node["max_workers"] > 0 for node in types.values())
    assert config["max_workers"] >= max(node["max_workers"] for node in types.values())
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False


def test_gpu_machines_are_spot_machines_and_the_head_is_not() -> None:
    aws, gcp = ({k: v["node_config"] for k, v in load(cloud)["available_node_types"].items()} for cloud in CLOUDS)
    assert aws["gpu"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in aws["head"]
    assert gcp["gpu"]["scheduling"]["provisioningModel"] == "SPOT"
    assert "scheduling" not in gcp["head"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_start_wants_the_token_and_the_dashboard_stays_on_the_head(cloud: str) -> None:
    config = prepare_config(load(cloud))
    for role, first in (("head", "--head"), ("worker", "--address=$RAY_HEAD_IP:6379")):
        starts = [line for line in config[f"{role}_start_ray_commands"] if "ray start" in line]
        assert len(starts) == 1
        before, options = starts[0].split("ray start")
        assert "export RAY_AUTH_MODE=token" in before
        assert {first, "--metrics-export-port=8080"} <= set(options.split())
        assert ("--dashboard-host=127.0.0.1" in options.split()) == (role == "head")
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for role in ("head", "worker"):
        assert "test -r ~/.ray/auth_token" in config[f"{role}_setup_commands"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_node_tries_the_bucket_and_installs_nothing(cloud: str) -> None:
    config = prepare_config(load(cloud))
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert sum(f"{CLOUDS[cloud]}/" in line and "check_writable" in line for line in commands) == 1
        assert not any("pip install" in line for line in commands)


def test_workers_have_an_identity_in_the_cloud() -> None:
    for node in load("aws")["available_node_types"].values():
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("halo_ray-")
    for name in ("cpu", "gpu"):  # Ray gives it to the head by itself
        account = load("gcp")["available_node_types"][name]["node_config"]["serviceAccounts"][0]
        assert account["email"] == "ray-autoscaler-sa-v1@PROJECT.iam.gserviceaccount.com"


@pytest.fixture
def aws_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An imitation of EC2 and IAM in this process, with the two instance profiles that the README creates."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the SSH key that it creates there
    with mock_aws():
        iam = boto3.client("iam")
        for name in ("halo_ray-head", "halo_ray-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield boto3.client("ec2", region_name="us-west-2")


def test_rays_aws_provider_starts_the_machines(aws_account: Any, caplog: pytest.LogCaptureFixture) -> None:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    caplog.set_level(logging.ERROR)
    image = aws_account.describe_images()["Images"][0]["ImageId"]
    text = (CLUSTER / "aws.yaml").read_text().replace("ImageId: AMI", f"ImageId: {image}")
    config = bootstrap_aws(prepare_config(yaml.safe_load(text)))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, node in config["available_node_types"].items():
        provider.create_node(node["node_config"], {"ray-user-node-type": name}, 1)

    machines = [m for group in aws_account.describe_instances()["Reservations"] for m in group["Instances"]]
    found = {next(tag["Value"] for tag in m["Tags"] if tag["Key"] == "ray-user-node-type"): m for m in machines}
    assert {name: machine.get("InstanceLifecycle") for name, machine in found.items()} == {
        "head": None,
        "cpu": None,
        "gpu": "spot",
    }
    roles = {name: machine["IamInstanceProfile"]["Arn"].rpartition("/")[2] for name, machine in found.items()}
    assert roles == {"head": "halo_ray-head", "cpu": "halo_ray-worker", "gpu": "halo_ray-worker"}

    group = aws_account.describe_security_groups(GroupNames=["halo-ray"])["SecurityGroups"][0]
    from_outside = {rule["FromPort"] for rule in group["IpPermissions"] if rule["IpRanges"]}
    assert from_outside == {22}


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def kuberay_errors(resource: Any) -> list[str]:
    schema = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(resource)]


def ray_cluster(name: str) -> Any:
    spec = load(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(name: str) -> dict[str, Any]:
    return {group["groupName"]: group for group in ray_cluster(name)["workerGroupSpecs"]}


def pods(name: str) -> list[Any]:
    cluster = ray_cluster(name)
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_knows_every_field(name: str) -> None:
    assert kuberay_errors(load(name)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda cluster: cluster.update(enableInTreeAutoscalling=cluster.pop("enableInTreeAutoscaling")),
        lambda cluster: cluster["autoscalerOptions"].update(idleTimeoutSeconds="300"),
        lambda cluster: cluster["autoscalerOptions"].update(idleTimeoutMinutes=5),
        lambda cluster: cluster["authOptions"].update(mode="tokens"),
        lambda cluster: cluster["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda cluster: cluster["headGroupSpec"]["rayStartParams"].update({"num_cpus": "0"}),
        lambda cluster: cluster["headGroupSpec"].update(serviceType="ClusterIp"),
        lambda cluster: cluster["workerGroupSpecs"][1].update(minReplica=0),
        lambda cluster: cluster["workerGroupSpecs"][1].pop("maxReplicas"),
        lambda cluster: cluster["workerGroupSpecs"][1]["template"]["spec"].update(toleration=[]),
        lambda cluster: cluster["workerGroupSpecs"][1]["template"]["spec"]["tolerations"][1].pop("value"),
        lambda cluster: cluster["workerGroupSpecs"][1]["template"]["spec"]["containers"][0].update(image="no-tag"),
        lambda cluster: cluster["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]["resources"][
            "limits"
        ].update({"nvidia.com/gpus": "1"}),
    ],
)
@pytest.mark.parametrize("name", KUBERAY)
def test_a_typing_mistake_in_a_kuberay_file_is_found(name: str, change: Callable[[Any], None]) -> None:
    resource = load(name)
    change(resource["spec"].get("rayClusterSpec", resource["spec"]))
    assert kuberay_errors(resource)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(backOffLimit=spec.pop("backoffLimit")),
        lambda spec: spec.update(backoffLimit="3"),
        lambda spec: spec.update(submissionMode="k8sJobMode"),
        lambda spec: spec.update(entrypoint=["python", "jobs/run_al.py"]),
        lambda spec: spec.pop("shutdownAfterJobFinishes"),  # the time to live would mean nothing
    ],
)
def test_a_typing_mistake_in_a_job_is_found(change: Callable[[Any], None]) -> None:
    resource = load("kuberay-rayjob")
    change(resource["spec"])
    assert kuberay_errors(resource)


def test_job_and_cluster_describe_the_same_cluster() -> None:
    assert ray_cluster("kuberay-rayjob") == ray_cluster("kuberay-raycluster")


def test_rays_autoscaler_reads_head_and_groups() -> None:
    resource = {"metadata": {"name": "c", "namespace": "n"}, "spec": ray_cluster("kuberay-raycluster")}
    config = _derive_autoscaling_config_from_ray_cr(resource)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])["resources"]
    assert (head["CPU"], head["GPU"]) == (0, 0)
    assert {name: (node["min_workers"], node["resources"].get("GPU", 0)) for name, node in types.items()} == {
        "cpu": (0, 0),
        "gpu": (0, 1),
    }
    assert all(node["resources"]["CPU"] > 0 and node["max_workers"] > 0 for node in types.values())
    assert config["idle_timeout_minutes"] == 5


def test_kubernetes_keeps_the_dashboard_inside_and_asks_for_the_token() -> None:
    cluster = ray_cluster("kuberay-raycluster")
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["enableIngress"] is False
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"]["metrics-export-port"] == "8080"
        ports = {port["name"]: port["containerPort"] for port in group["template"]["spec"]["containers"][0]["ports"]}
        assert ports["metrics"] == 8080


def test_pods_are_not_root_and_have_an_identity_in_the_cloud() -> None:
    for pod in pods("kuberay-raycluster"):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["serviceAccountName"] == "halo-ray"
        assert pod["containers"][0]["resources"]["requests"] == pod["containers"][0]["resources"]["limits"]


def test_gpu_pods_and_only_these_may_run_on_gpu_and_spot_nodes() -> None:
    head, cpu, gpu = pods("kuberay-raycluster")
    assert "tolerations" not in head
    assert "tolerations" not in cpu
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= {taint["key"] for taint in gpu["tolerations"]}
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_job_is_tried_again_in_the_same_place_and_cleans_up() -> None:
    spec = load("kuberay-rayjob")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert parse(shlex.split(spec["entrypoint"])).output_dir.startswith("s3://BUCKET/")
    # KubeRay splits the line and joins it with blanks: what has to be quoted would come apart.
    assert shlex.split(spec["entrypoint"]) == spec["entrypoint"].split()


# --- one image, one version, known options ----------------------------------------------------------------------------


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


def parse(arguments: list[str]) -> Any:
    start = arguments.index("jobs/run_al.py") + 1 if "jobs/run_al.py" in arguments else 0
    return parse_config([word for word in arguments[start:] if word != "--plan"], PRESETS)


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
