"""charts/mlflow: one server, its names, its volume, its Ingress."""

import pytest


def flag(rendered, name: str) -> str | None:
    prefix = f"--{name}="
    return next((each.removeprefix(prefix) for each in rendered.container["command"] if each.startswith(prefix)), None)


def hosts(rendered) -> list[str]:
    return (flag(rendered, "allowed-hosts") or "").split(",")


LOCAL = ["localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*"]
HOSTS = {
    "every form of the Service's name, bare and with its port": (
        {},
        "mlflow",
        ["mlflow", "mlflow.ml", "mlflow.ml.svc", "mlflow.ml.svc.cluster.local"],
        5000,
        [],
    ),
    "the name that the release gives": (
        {},
        "tracking",
        ["tracking-mlflow", "tracking-mlflow.ml", "tracking-mlflow.ml.svc", "tracking-mlflow.ml.svc.cluster.local"],
        5000,
        [],
    ),
    "another port and another domain": (
        {"service": {"port": 80}, "clusterDomain": "corp.example"},
        "mlflow",
        ["mlflow", "mlflow.ml", "mlflow.ml.svc", "mlflow.ml.svc.corp.example"],
        80,
        [],
    ),
    "the Ingress's host and what else is named": (
        {"ingress": {"enabled": True, "host": "mlflow.example.org"}, "extraAllowedHosts": ["gateway:*"]},
        "mlflow",
        ["mlflow", "mlflow.ml", "mlflow.ml.svc", "mlflow.ml.svc.cluster.local"],
        5000,
        ["mlflow.example.org", "gateway:*"],
    ),
}


@pytest.mark.parametrize("sentence", HOSTS)
def test_the_server_allows(charts, sentence):
    values, release, names, port, more = HOSTS[sentence]
    rendered = charts.render("mlflow", values, release=release, namespace="ml")
    assert rendered.one("Service")["metadata"]["name"] == names[0]
    assert rendered.one("Service")["spec"]["ports"] == [{"name": "http", "port": port, "targetPort": "http"}]
    assert sorted(hosts(rendered)) == sorted([*names, *(f"{name}:{port}" for name in names), *LOCAL, *more])


def test_ready_means_that_the_api_answers_under_the_services_name(charts):
    rendered = charts.render("mlflow", release="tracking", namespace="ml")
    for probe in ("startupProbe", "readinessProbe"):
        get = rendered.container[probe]["httpGet"]
        assert get["path"].startswith("/api/2.0/mlflow/")
        (header,) = get["httpHeaders"]
        assert header["name"] == "Host"
        assert header["value"] in hosts(rendered)


@pytest.mark.parametrize("seconds", [10, 90, 91, 300])
def test_the_first_start_may_take_as_long_as_is_said(charts, seconds):
    probe = charts.render("mlflow", {"startupSeconds": seconds}).container["startupProbe"]
    assert seconds <= probe["periodSeconds"] * probe["failureThreshold"] < seconds + probe["periodSeconds"]


def test_the_server_is_small_and_tells_nobody(charts):
    rendered = charts.render("mlflow")
    assert flag(rendered, "workers") == "1"
    assert rendered.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert rendered.env["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert rendered.container["resources"]["limits"] == {"memory": "1Gi"}


def test_a_service_named_mlflow_cannot_set_mlflows_port(charts):
    assert charts.render("mlflow").pod["enableServiceLinks"] is False


def test_one_writer_for_sqlite(charts):
    deployment = charts.render("mlflow").one("Deployment")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})


def data_volume(rendered) -> dict:
    return next(each for each in rendered.pod["volumes"] if each["name"] == "data")


def test_the_data_lies_on_a_volume_of_its_own_that_survives_the_release(charts):
    rendered = charts.render("mlflow")
    claim = rendered.one("PersistentVolumeClaim")
    assert data_volume(rendered)["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
    for place in (flag(rendered, "backend-store-uri"), flag(rendered, "artifacts-destination")):
        assert place is not None
        assert place.removeprefix("sqlite:///").startswith("/mlflow/")
    assert {"name": "data", "mountPath": "/mlflow"} in rendered.container["volumeMounts"]
    assert rendered.pod["securityContext"]["fsGroup"] == rendered.pod["securityContext"]["runAsGroup"]


def test_the_volume_is_as_large_and_as_lasting_as_is_said(charts):
    values = {"persistence": {"size": "20Gi", "storageClass": "fast", "keep": False, "accessModes": ["ReadWriteMany"]}}
    claim = charts.render("mlflow", values).one("PersistentVolumeClaim")
    assert "annotations" not in claim["metadata"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "20Gi"}},
    }


def test_a_claim_that_exists_is_used(charts):
    rendered = charts.render("mlflow", {"persistence": {"existingClaim": "mine"}})
    assert rendered.all("PersistentVolumeClaim") == []
    assert data_volume(rendered)["persistentVolumeClaim"] == {"claimName": "mine"}


def test_without_persistence_there_is_no_claim(charts):
    rendered = charts.render("mlflow", {"persistence": {"enabled": False}})
    assert rendered.all("PersistentVolumeClaim") == []
    assert data_volume(rendered) == {"name": "data", "emptyDir": {}}


def test_no_ingress_by_default(charts):
    assert charts.render("mlflow").all("Ingress") == []


@pytest.mark.parametrize(("secret", "origin"), [("", "http://ml.example.org"), ("cert", "https://ml.example.org")])
def test_browsers_behind_the_ingress_may_write(charts, secret, origin):
    values = {"ingress": {"enabled": True, "host": "ml.example.org", "className": "nginx", "tlsSecretName": secret}}
    rendered = charts.render("mlflow", values)
    spec = rendered.one("Ingress")["spec"]
    (rule,) = spec["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], spec["ingressClassName"]) == ("ml.example.org", "nginx")
    assert path["backend"]["service"] == {"name": rendered.one("Service")["metadata"]["name"], "port": {"name": "http"}}
    assert spec.get("tls", []) == ([{"hosts": ["ml.example.org"], "secretName": secret}] if secret else [])
    assert flag(rendered, "cors-allowed-origins") == origin


NOTES = {
    "say where jobs find it": "http://mlflow.m3-system.svc.cluster.local:5000",
    "wait for it": "kubectl -n m3-system rollout status deployment/mlflow",
    "look at it": "kubectl -n m3-system port-forward service/mlflow 5050:5000",
    "use it": "MLFLOW_TRACKING_URI=http://localhost:5050 m3 run -f manifests/samples/trainingjob.yaml",
}


@pytest.mark.parametrize("sentence", NOTES)
def test_the_notes(charts, sentence):
    assert NOTES[sentence] in charts.notes("mlflow")


def test_the_notes_warn_that_nothing_is_kept(charts):
    assert "runs and models are lost" in charts.notes("mlflow", {"persistence": {"enabled": False}})
