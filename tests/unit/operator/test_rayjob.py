"""The RayJob of an attempt, as it is POSTed."""

import json

import pytest
import yaml

from m3_operator.api.v1alpha1 import MAX_JOB_NAME
from m3_operator.resources import names, rayjob

CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture
def build(make):
    return lambda attempt=1, **spec: rayjob.build(make.job(**spec), attempt, make.settings)


def pod(built, group="head"):
    cluster = built["spec"]["rayClusterSpec"]
    return (cluster["headGroupSpec"] if group == "head" else cluster["workerGroupSpecs"][0])["template"]["spec"]


def test_metadata(build, make):
    assert build(2)["metadata"] == {
        "name": "fraud-rf-58dc-2",
        "namespace": "shop",
        "labels": {
            "app.kubernetes.io/managed-by": "m3",
            "m3.dev/job": "fraud-rf",
            "m3.dev/job-uid": make.uid,
            "m3.dev/attempt": "2",
        },
        "ownerReferences": [
            {
                "apiVersion": "m3.dev/v1alpha1",
                "kind": "TrainingJob",
                "name": "fraud-rf",
                "uid": make.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def test_the_whole_cluster_of_a_job_that_says_nothing_of_it(build):
    labels = build()["metadata"]["labels"]
    assert build()["spec"] | {"runtimeEnvYAML": ...} == {
        "entrypoint": "python -m m3_trainer job",
        "submissionMode": "HTTPMode",
        "runtimeEnvYAML": ...,
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "rayClusterSpec": {
            "rayVersion": "2.60.0",
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "rayStartParams": {},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": 1000,
                            "runAsGroup": 1000,
                            "fsGroup": 1000,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [
                            {
                                "name": "ray-head",
                                "image": "m3-trainer:dev",
                                "imagePullPolicy": "IfNotPresent",
                                "resources": {
                                    "requests": {"cpu": "250m", "memory": "1Gi"},
                                    "limits": {"cpu": "1", "memory": "4Gi"},
                                },
                                "env": [
                                    {"name": "HOME", "value": "/tmp"},
                                    {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
                                ],
                                "volumeMounts": [
                                    {"name": "m3-tmp", "mountPath": "/tmp"},
                                    {"name": "m3-shm", "mountPath": "/dev/shm"},
                                ],
                                "readinessProbe": rayjob.READINESS,
                                "securityContext": CONTAINER_SECURITY,
                            }
                        ],
                        "volumes": [
                            {"name": "m3-tmp", "emptyDir": {}},
                            {"name": "m3-shm", "emptyDir": {"medium": "Memory"}},
                        ],
                    },
                },
            },
        },
    }


def test_the_job_finds_its_workload_and_its_name_in_the_environment(build, make):
    variables = yaml.safe_load(build(3)["spec"]["runtimeEnvYAML"])["env_vars"]
    workload = json.loads(variables.pop("M3_WORKLOAD"))
    assert workload["data"] == {"uri": "s3://bucket/transactions.parquet", "target": "TX_FRAUD"}
    assert "ray" not in workload
    assert variables == {
        "M3_JOB_NAME": "fraud-rf",
        "M3_JOB_NAMESPACE": "shop",
        "M3_JOB_UID": make.uid,
        "M3_ATTEMPT": "3",
        "M3_RAY_JOB": build(3)["metadata"]["name"],
        "M3_IMAGE": "m3-trainer:dev",
        "M3_OPERATOR_ID": "m3",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "PYTHONUNBUFFERED": "1",
    }


def test_the_image_of_a_cluster_that_is_there_is_not_told(build):
    variables = yaml.safe_load(build(1, ray={"clusterSelector": {"ray.io/cluster": "warm"}})["spec"]["runtimeEnvYAML"])
    assert "M3_IMAGE" not in variables["env_vars"]


@pytest.mark.parametrize(
    ("ray", "told"),
    [({}, None), ({"workers": {"replicas": 0}}, None), ({"workers": {"replicas": 2}}, "2"),
     ({"clusterSelector": {"ray.io/cluster": "warm"}}, "any")],
)  # fmt: skip
def test_the_job_is_told_how_many_workers_it_has(build, ray, told):
    variables = yaml.safe_load(build(1, ray=ray)["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables.get("M3_WORKERS") == told


def test_a_users_text_stays_out_of_the_entrypoint(build):
    spec = build(data={"uri": "$(id); rm -rf /a.csv", "target": "$(id)"})["spec"]
    assert spec["entrypoint"] == rayjob.ENTRYPOINT


def test_workers_are_started_where_there_are_some(build):
    built = build(ray={"workers": {"replicas": 3, "resources": {"limits": {"cpu": 4}}}})
    (group,) = built["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (3, 3, 3)
    assert pod(built, "workers")["containers"][0]["resources"] == {"limits": {"cpu": "4"}}


def test_no_workers_is_no_group(build):
    assert "workerGroupSpecs" not in build(ray={"workers": {"replicas": 0}})["spec"]["rayClusterSpec"]


def test_a_warm_cluster_is_selected_and_left_running(build):
    spec = build(ray={"clusterSelector": {"ray.io/cluster": "warm"}})["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": "warm"}
    assert "rayClusterSpec" not in spec
    assert "shutdownAfterJobFinishes" not in spec


def test_a_secret_is_named_and_never_read(build):
    built = build(data={"uri": "s3://b/a.csv", "target": "y", "secretRef": {"name": "s3"}}, ray={"workers": {}})
    for group in ("head", "workers"):
        assert pod(built, group)["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3"}}]


def test_the_users_environment_wins_over_ours(build):
    built = build(ray={"head": {"env": [{"name": "HOME", "value": "/data"}, {"name": "A", "value": "1"}]}})
    assert pod(built)["containers"][0]["env"] == [
        {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        {"name": "HOME", "value": "/data"},
        {"name": "A", "value": "1"},
    ]


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({"requests": {"cpu": "2500m"}, "limits": {"memory": "4Gi"}}, "3"),
        ({"requests": {"cpu": 2}, "limits": {"cpu": 4}}, None),  # the process reads the limit in its cgroup
        ({"limits": {"cpu": 4}}, None),
    ],
    ids=["request alone", "request and limit", "limit alone"],
)
def test_threads_follow_the_request_where_no_limit_does_it(build, resources, threads):
    container = pod(build(ray={"head": {"resources": resources}}))["containers"][0]
    assert {each["name"]: each["value"] for each in container["env"]}.get("M3_THREADS") == threads


def test_volumes_are_mounted(build):
    volumes = [
        {"name": "data", "mountPath": "/data", "readOnly": True, "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "scratch", "mountPath": "/scratch", "subPath": "x", "emptyDir": {"sizeLimit": "1Gi"}},
    ]
    built = pod(build(ray={"head": {"volumes": volumes}}))
    assert built["volumes"][2:] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "scratch", "emptyDir": {"medium": "", "sizeLimit": "1Gi"}},
    ]
    assert built["containers"][0]["volumeMounts"][2:] == [
        {"name": "data", "mountPath": "/data", "readOnly": True},
        {"name": "scratch", "mountPath": "/scratch", "subPath": "x", "readOnly": False},
    ]


@pytest.mark.parametrize(
    ("storage", "value"),
    {"a claim": ({"persistentVolumeClaim": "c"}, "/storage"), "a bucket": ({"uri": "s3://b/x"}, "s3://b/x")}.values(),
    ids=["claim", "bucket"],
)
def test_storage_is_told_to_the_job(build, storage, value):
    built = build(storage=storage)
    assert yaml.safe_load(built["spec"]["runtimeEnvYAML"])["env_vars"]["M3_STORAGE"] == value
    mounted = {"name": "m3-storage", "mountPath": "/storage"} in pod(built)["containers"][0]["volumeMounts"]
    assert mounted is ("persistentVolumeClaim" in storage)


def test_where_pods_run_and_as_whom(build):
    built = pod(
        build(
            image="shop/trainer:1",
            imagePullSecrets=[{"name": "registry"}],
            serviceAccountName="trainer",
            ray={"head": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}},
        )
    )
    assert built["containers"][0]["image"] == "shop/trainer:1"
    assert built["imagePullSecrets"] == [{"name": "registry"}]
    assert built["serviceAccountName"] == "trainer"
    assert built["nodeSelector"] == {"disk": "ssd"}
    assert built["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


def test_the_longest_name_fits_a_rayjob(make):
    meta = make.job().metadata.model_copy(update={"name": "a" * MAX_JOB_NAME})
    assert len(names.rayjob(meta, 101)) <= 47
