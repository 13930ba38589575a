"""The judges of `m3 doctor`: each from what was seen to a verdict."""

import copy
from pathlib import Path

import pytest
import yaml

from m3_trainer.cli import doctor
from m3_trainer.cli.doctor import Deployed, Finding, MlflowAnswer, Node
from m3_trainer.kube import ClusterRefused, ClusterUnavailable, NotFound

CRD = yaml.safe_load((Path(__file__).parents[3] / "manifests/crds/m3.dev_trainingjobs.yaml").read_text())
URI = "http://mlflow.m3-system.svc.cluster.local:5000"


def installed() -> dict:
    return copy.deepcopy(CRD) | {"status": {"conditions": [{"type": "Established", "status": "True"}]}}


def spec_of(crd: dict) -> dict:
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


def test_the_crd_of_this_version_has_every_field_and_rule():
    found = doctor.judge_crds(installed())
    assert found.verdict == "ok", found.seen


@pytest.mark.parametrize("taken", ["data.sampleSize", "registry.promotion", "storage", "training.split.testDays"])
def test_a_crd_that_lacks_a_field_is_older(taken):
    crd = installed()
    *path, last = taken.split(".")
    fields = spec_of(crd)
    for name in path:
        fields = fields[name]["properties"]
    del fields[last]
    found = doctor.judge_crds(crd)
    assert (found.verdict, found.cure) == ("fault", doctor.UPGRADE)
    assert f"it lacks {taken}" in found.seen


def test_a_crd_with_a_field_more_is_newer_and_one_with_another_rule_is_other():
    newer, other = installed(), installed()
    spec_of(newer)["model"]["properties"]["distillation"] = {"type": "string"}
    found = doctor.judge_crds(newer)
    assert (found.verdict, found.seen) == ("warning", "the CRD is newer than this m3: it has model.distillation")
    spec_of(other)["data"]["x-kubernetes-validations"].append({"rule": "true", "message": "`uri` must be new"})
    assert doctor.judge_crds(other).verdict == "warning"


def test_a_crd_that_is_not_established_or_of_another_version_is_a_fault():
    assert doctor.judge_crds(CRD).verdict == "fault"
    crd = installed()
    crd["spec"]["versions"][0]["name"] = "v1"
    assert doctor.judge_crds(crd).verdict == "fault"
    assert doctor.judge_crds(None).verdict == "ok"


@pytest.mark.parametrize(
    ("told", "verdict"), [("v1.30.9", "fault"), ("v1.31.0", "ok"), ("v1.34.3+k3s1", "ok"), ("v2.0.0", "ok")]
)
def test_the_version_of_kubernetes(told, verdict):
    assert doctor.judge_api_server((told, "https://there")).verdict == verdict


def deployed(image: str = "m3-operator:dev", available: int = 1, restarts: int = 0) -> Deployed:
    return Deployed("name", "m3-system", image, available, restarts, "OOMKilled at noon" if restarts else "", {})


def test_the_operator_is_there_available_and_stays_up():
    assert doctor.judge_operator((None, "release m3")).verdict == "fault"
    assert doctor.judge_operator((deployed(available=0), "")).verdict == "fault"
    restarted = doctor.judge_operator((deployed(restarts=3), ""))
    assert (restarted.verdict, "OOMKilled at noon" in restarted.seen) == ("warning", True)
    assert doctor.judge_operator((deployed(), "")).verdict == "ok"


@pytest.mark.parametrize(
    ("image", "verdict"),
    [
        ("quay.io/kuberay/operator:v1.6.2", "ok"),
        ("quay.io/kuberay/operator:v1.5.1", "fault"),
        ("registry.example:5000/kuberay:nightly", "warning"),
    ],
)
def test_the_version_of_kuberay(image, verdict):
    assert doctor.judge_kuberay(deployed(image)).verdict == verdict


@pytest.mark.parametrize(
    ("there", "watched", "verdict"),
    [
        (True, "default,team", "ok"),
        (True, "*", "ok"),
        (True, "default", "fault"),
        (False, "*", "fault"),
        (True, None, "warning"),
    ],
)
def test_the_namespace_is_there_and_watched(there, watched, verdict):
    assert doctor.judge_namespace(("team", there, watched)).verdict == verdict


@pytest.mark.parametrize(
    ("answer", "verdict", "told"),
    [
        (MlflowAnswer(URI), "ok", "answers jobs that call it mlflow.m3-system.svc.cluster.local:5000"),
        (
            MlflowAnswer(URI, ClusterRefused("the API server refuses: Invalid Host header")),
            "fault",
            "answers 403 to jobs",
        ),
        (
            MlflowAnswer(URI, ClusterRefused("user `a` must have the right to get services")),
            "warning",
            "could not be asked",
        ),
        (MlflowAnswer(URI, NotFound('services "mlflow" not found')), "fault", "does not answer"),
        (MlflowAnswer(URI, ClusterUnavailable("503: no endpoints available")), "fault", "does not answer"),
        (MlflowAnswer("https://mlflow.example", is_outside=True), "warning", "not asked"),
    ],
)
def test_mlflow_and_its_host_check(answer, verdict, told):
    found = doctor.judge_mlflow(answer)
    assert (found.verdict, told in found.seen) == (verdict, True), found


HEAD = {"cpu": 0.25, "memory": 2.0**30}


@pytest.mark.parametrize(
    ("allocatable", "free", "verdict"),
    [(4.0, 2.0, "ok"), (4.0, 0.1, "warning"), (0.2, 0.2, "fault"), (None, None, "fault")],
)
def test_capacity(allocatable, free, verdict):
    nodes = [] if allocatable is None else [Node("n", HEAD | {"cpu": allocatable}, HEAD | {"cpu": free})]
    assert doctor.judge_capacity((nodes, HEAD)).verdict == verdict


def test_what_a_node_has_left():
    def node(name: str, **spec) -> dict:
        return {"metadata": {"name": name}, "spec": spec, "status": {"allocatable": {"cpu": "2", "memory": "4Gi"}}}

    pod = {"spec": {"nodeName": "a", "containers": [{"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}, {}]}}
    nodes = [node("a"), node("b", unschedulable=True), node("c", taints=[{"effect": "NoSchedule", "key": "k"}])]
    (left,) = doctor.nodes_of(nodes, [pod, pod])
    assert (left.name, left.free) == ("a", {"cpu": 1.0, "memory": 2 * 2.0**30})


def test_the_heads_requests_are_the_crds_defaults():
    wanted = doctor.default_requests(installed())
    assert wanted == {"cpu": 0.25, "memory": 2.0**30}
    assert doctor.default_requests(None) == {"cpu": 0.0, "memory": 0.0}


def test_disk_packages_storage_and_rights():
    assert doctor.judge_disk({"/home": 100_000_000, "/tmp": 10**12}).verdict == "fault"
    assert doctor.judge_disk({"/home": 2_000_000_000}).verdict == "warning"
    assert doctor.judge_disk({"/home": 10**12}).verdict == "ok"
    assert doctor.judge_packages(["kubernetes"]).cure == "pip install 'm3-ml[cluster]'"
    assert doctor.judge_packages([]).verdict == "ok"
    assert doctor.judge_storage_class([{"metadata": {"name": "slow"}}]).verdict == "warning"
    assert doctor.judge_rights(("ns", {"submit": ["create trainingjobs"]})).verdict == "fault"
    assert doctor.judge_rights(("ns", {"cancel --delete": ["delete trainingjobs"]})).verdict == "warning"
    assert doctor.judge_rights(("ns", {})) == Finding("ok", "every m3 command may be used in namespace ns")


@pytest.mark.parametrize(
    ("found", "verdict", "seen"),
    [
        ((None, ""), "ok", "no RAY_DASHBOARD_HOST"),
        (("http://ray-head:8265", "2.60.0"), "ok", "Ray 2.60.0 shows its work at http://ray-head:8265"),
        (("http://ray-head:8265", ""), "warning", "no dashboard of Ray answers at http://ray-head:8265"),
    ],
)
def test_a_dashboard_of_ray_that_is_away_is_no_fault(found, verdict, seen):
    judged = doctor.judge_ray_dashboard(found)
    assert (judged.verdict, seen in judged.seen) == (verdict, True)
