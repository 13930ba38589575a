"""charts/m3: the operator's deployment, its settings, its rights and the CRDs."""

from pathlib import Path

import pytest
import yaml

CRDS = Path(__file__).parents[2] / "charts" / "m3" / "files" / "crds"

SETTINGS = {
    "watches its own namespace by default": ({}, {"M3_WATCH_NAMESPACES": "m3-system"}),
    "watches the namespaces that are named too": (
        {"watchNamespaces": ["default", "team-a"]},
        {"M3_WATCH_NAMESPACES": "m3-system,default,team-a"},
    ),
    "names its own namespace once": (
        {"watchNamespaces": ["m3-system", "default"]},
        {"M3_WATCH_NAMESPACES": "m3-system,default"},
    ),
    "watches every namespace when cluster-wide": ({"clusterWide": True}, {"M3_WATCH_NAMESPACES": "*"}),
    "is known by its namespace and release": ({}, {"M3_OPERATOR_ID": "m3-system/m3"}),
    "takes images of its own version by default": ({}, {"M3_TRAINER_IMAGE": "m3-trainer:0.1.0"}),
    "gives jobs the image that is set": (
        {"trainer": {"image": {"repository": "registry.example/m3-trainer", "tag": "dev", "pullPolicy": "Always"}}},
        {"M3_TRAINER_IMAGE": "registry.example/m3-trainer:dev", "M3_IMAGE_PULL_POLICY": "Always"},
    ),
    "finds the MLflow of its own namespace": (
        {},
        {
            "M3_MLFLOW_TRACKING_URI": "http://mlflow.m3-system.svc.cluster.local:5000",
            "M3_MLFLOW_UI_URL": "http://mlflow.m3-system.svc.cluster.local:5000",
        },
    ),
    "links to the tracking server unless browsers reach it elsewhere": (
        {"mlflow": {"trackingUri": "http://tracking.ml:80"}},
        {"M3_MLFLOW_TRACKING_URI": "http://tracking.ml:80", "M3_MLFLOW_UI_URL": "http://tracking.ml:80"},
    ),
    "links to where browsers reach MLflow": (
        {"mlflow": {"uiUrl": "https://mlflow.example.org"}},
        {"M3_MLFLOW_UI_URL": "https://mlflow.example.org"},
    ),
    "passes its clock, port and log level": (
        {"resyncSeconds": 3, "probePort": 9090, "logLevel": "DEBUG"},
        {"M3_RESYNC_SECONDS": "3", "M3_PROBE_PORT": "9090", "M3_LOG_LEVEL": "DEBUG"},
    ),
}


@pytest.mark.parametrize("sentence", SETTINGS)
def test_the_operator(charts, sentence):
    values, expected = SETTINGS[sentence]
    env = charts.render("m3", values).env
    assert {name: env[name] for name in expected} == expected


def test_the_operator_is_one_pod_that_is_replaced_not_doubled(charts):
    deployment = charts.render("m3").one("Deployment")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})


def test_the_probes_ask_the_port_that_the_operator_is_told(charts):
    container = charts.render("m3", {"probePort": 9090}).container
    assert container["ports"] == [{"name": "probes", "containerPort": 9090}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "probes"}


def test_no_variable_of_a_service_can_look_like_a_setting(charts):
    assert charts.render("m3").pod["enableServiceLinks"] is False


def test_a_watched_namespace_gets_a_role_that_is_bound_to_the_operator(charts):
    rendered = charts.render("m3", {"watchNamespaces": ["default"]})
    roles = {each["metadata"]["namespace"]: each for each in rendered.all("Role")}
    bindings = {each["metadata"]["namespace"]: each for each in rendered.all("RoleBinding")}
    account = rendered.one("ServiceAccount")["metadata"]
    assert roles.keys() == bindings.keys() == {"m3-system", "default"}
    for namespace, binding in bindings.items():
        assert binding["roleRef"]["name"] == roles[namespace]["metadata"]["name"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
        ]
    assert rendered.pod["serviceAccountName"] == account["name"]
    assert rendered.all("ClusterRole") == []


def test_cluster_wide_means_one_cluster_role_with_the_rules_of_the_roles(charts):
    rendered, namespaced = charts.render("m3", {"clusterWide": True}), charts.render("m3")
    assert rendered.all("Role") == rendered.all("RoleBinding") == []
    assert rendered.one("ClusterRole")["rules"] == namespaced.one("Role")["rules"]
    assert rendered.one("ClusterRoleBinding")["roleRef"]["name"] == rendered.one("ClusterRole")["metadata"]["name"]


def test_two_cluster_wide_releases_do_not_share_a_cluster_role(charts):
    names = [
        charts.render("m3", {"clusterWide": True}, namespace=namespace).one("ClusterRole")["metadata"]["name"]
        for namespace in ("team-a", "team-b")
    ]
    assert len(set(names)) == 2


@pytest.mark.parametrize("values", [{}, {"clusterWide": True}], ids=["namespaced", "cluster-wide"])
def test_no_rule_has_a_wildcard_reads_secrets_or_writes_pods(charts, values):
    for role in [*charts.render("m3", values).all("Role"), *charts.render("m3", values).all("ClusterRole")]:
        for rule in role["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}, rule
            assert "secrets" not in rule["resources"], rule
            assert "pods" not in rule["resources"] or not {"create", "patch", "delete"} & {*rule["verbs"]}, rule


def test_rights_and_account_may_be_made_by_somebody_else(charts):
    rendered = charts.render("m3", {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}})
    assert rendered.all("Role") == rendered.all("RoleBinding") == rendered.all("ServiceAccount") == []
    assert rendered.pod["serviceAccountName"] == "mine"


def test_the_chart_carries_the_crds_as_they_were_generated(charts):
    files = [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]
    rendered = charts.render("m3").all("CustomResourceDefinition")
    assert [each["spec"] for each in rendered] == [each["spec"] for each in files] != []


def test_the_crds_stay_when_the_release_goes(charts):
    for crd in charts.render("m3").all("CustomResourceDefinition"):
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_crds_go_with_the_release_where_that_is_wanted(charts):
    crds = charts.render("m3", {"crds": {"keep": False}}).all("CustomResourceDefinition")
    assert crds != []
    assert not any("helm.sh/resource-policy" in each["metadata"].get("annotations", {}) for each in crds)


def test_a_second_release_brings_no_crds(charts):
    assert charts.render("m3", {"crds": {"enabled": False}}).all("CustomResourceDefinition") == []


NOTES = {
    "train in the release's namespace": ({}, "kubectl apply -n m3-system -f manifests/samples/trainingjob.yaml"),
    "train in the first watched namespace": ({"watchNamespaces": ["default"]}, "kubectl apply -n default -f manifests"),
    "wait for it": ({}, "kubectl wait -n m3-system --for=condition=Complete trainingjob/fraud-rf"),
    "look at it": ({}, "kubectl port-forward -n m3-system service/mlflow 5050:5000"),
    "say that KubeRay is missing": ({}, "KubeRay is missing in this cluster"),
    "say what uninstalling leaves": ({}, "`helm uninstall` leaves the CRDs"),
}


@pytest.mark.parametrize("sentence", NOTES)
def test_the_notes(charts, sentence):
    values, expected = NOTES[sentence]
    assert expected in charts.notes("m3", values)
