"""cluster/aws.yaml and gcp.yaml: valid for ray up, and safe by default."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import ray.autoscaler
import yaml
from cluster_files import CLOUDS, CLUSTER, load, schema_errors
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config, validate_config


def changed(tree: Any, change: Callable[[Any], None]) -> Any:
    tree = copy.deepcopy(tree)
    change(tree)
    return tree


def ray_schema() -> Any:
    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_up_accepts_the_file(cloud: str) -> None:
    assert schema_errors(load(cloud), ray_schema()) == []
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
