"""cluster/kuberay-*.yaml: valid for KubeRay, and safe by default."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_files import KUBERAY, load, parse, pods, ray_cluster, schema_errors
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr


def kuberay_errors(resource: Any) -> list[str]:
    return schema_errors(resource, json.loads(Path(__file__).with_name("kuberay.schema.json").read_text()))


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
