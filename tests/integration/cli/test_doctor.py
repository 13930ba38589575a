"""m3 doctor against an API server that has the CRDs and nothing else, and without any."""

import json

from harness import unused_port
from kubernetes import client


def checks(ended) -> dict:
    return {each["name"]: each for each in json.loads(ended.out)["checks"]}


def test_without_a_cluster_this_machine_alone_is_looked_at(m3, mlflow):
    ended = m3("doctor", "-o", "json", KUBECONFIG="", MLFLOW_TRACKING_URI=mlflow.uri)
    assert ended.code == 0, ended.err
    found = checks(ended)
    assert list(found) == ["python", "disk", "tracking", "ray-dashboard", "kubeconfig"]
    assert found["tracking"]["seen"] == f"MLflow at {mlflow.uri} answers"
    assert found["kubeconfig"]["verdict"] == "warning"
    assert json.loads(ended.out)["faults"] == 0


def test_a_tracking_server_that_is_down_is_a_fault(m3):
    ended = m3("doctor", KUBECONFIG="", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert (ended.code, ended.err) == (15, "error: faults: tracking\n")
    assert "MLflow at http://127.0.0.1:9 must answer" in ended.out


def test_the_dashboard_of_ray_that_the_environment_names_is_looked_for(m3):
    nowhere = {"RAY_DASHBOARD_HOST": "0.0.0.0", "RAY_DASHBOARD_PORT": str(unused_port())}
    ended = m3("doctor", "-o", "json", KUBECONFIG="", **nowhere)
    found = checks(ended)["ray-dashboard"]
    assert (ended.code, found["verdict"]) == (0, "warning"), ended.err
    assert found["seen"] == f"no dashboard of Ray answers at http://127.0.0.1:{nowhere['RAY_DASHBOARD_PORT']}"
    assert "mend RAY_DASHBOARD_HOST and RAY_DASHBOARD_PORT" in found["cure"]


def test_a_cluster_with_nothing_but_the_crds(m3):
    ended = m3("doctor", "-o", "json")
    found = checks(ended)
    assert {name: each["verdict"] for name, each in found.items() if name not in ("python", "disk")} == {
        "tracking": "ok",
        "ray-dashboard": "ok",
        "kubeconfig": "ok",
        "api-server": "ok",
        "crds": "ok",
        "operator": "fault",
        "namespace": "warning",
        "kuberay": "warning",
        "mlflow": "fault",
        "storage-class": "warning",
        "capacity": "fault",
        "rights": "ok",
    }, ended.out
    assert found["operator"]["cure"].startswith("helm install m3")
    assert 'services "mlflow" not found' in found["mlflow"]["seen"]
    assert (ended.code, ended.err) == (15, "error: faults: operator, mlflow, capacity\n")


def test_a_node_makes_room(m3, namespace):
    with namespace.server.api() as api:
        core = client.CoreV1Api(api)
        core.create_node({"metadata": {"name": "roomy"}})
        status = {"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}}
        core.patch_node_status("roomy", status)
        taints = core.read_node("roomy").spec.taints or []  # a new node is not ready, which is a taint
        core.patch_node("roomy", {"spec": {"taints": None}})
        try:
            found = checks(m3("doctor", "-o", "json"))["capacity"]
        finally:
            core.delete_node("roomy")
    assert found["seen"] == "node roomy has 4.0 CPU and 8.0 GiB left; a job's head asks for 0.25 CPU and 1.0 GiB", (
        taints
    )
    assert found["verdict"] == "ok"


def test_an_ordinary_user_may_not_see_everything_and_is_told_what(as_user):
    ended = as_user("reader")("doctor", "-o", "json")
    found = checks(ended)
    assert found["crds"]["seen"] == "TrainingJob is known; you may not read its schema, so that was not compared"
    assert found["capacity"]["verdict"] == "warning"
    assert "must have the right to list nodes" in found["capacity"]["seen"]
    assert found["rights"]["verdict"] == "fault"
    assert "submit: create trainingjobs" in found["rights"]["seen"]


def test_an_api_server_that_is_down_ends_the_looking(m3, tmp_path):
    path = tmp_path / "down"
    path.write_text(m3.kubeconfig.read_text().replace(f":{_port(m3)}", ":9"))
    ended = m3("doctor", "-o", "json", KUBECONFIG=str(path))
    found = checks(ended)
    assert list(found)[-1] == "api-server"
    assert (ended.code, found["api-server"]["verdict"]) == (15, "fault")


def _port(m3) -> str:
    return m3.kubeconfig.read_text().split("https://127.0.0.1:")[1].split("\n")[0]
