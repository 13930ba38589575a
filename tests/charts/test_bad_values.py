"""A value that cannot work is refused before anything is sent to the cluster, by a message that says where and why."""

import pytest

# chart, values, and every part that the message must have
REFUSED = {
    "m3: a misspelt value": (
        "m3",
        {"watchNamespace": ["default"]},
        ["additional properties 'watchNamespace' not allowed"],
    ),
    "m3: a misspelt nested value": (
        "m3",
        {"trainer": {"image": {"tga": "dev"}}},
        ["at '/trainer/image'", "additional properties 'tga' not allowed"],
    ),
    "m3: a namespace that no cluster has": (
        "m3",
        {"watchNamespaces": ["Team_A"]},
        ["at '/watchNamespaces/0'", "'Team_A'"],
    ),
    "m3: one namespace twice": (
        "m3",
        {"watchNamespaces": ["a", "a"]},
        ["at '/watchNamespaces'", "items at 0 and 1 are equal"],
    ),
    "m3: namespaces as one string": (
        "m3",
        {"watchNamespaces": "a,b"},
        ["at '/watchNamespaces'", "got string, want array"],
    ),
    "m3: namespaces beside cluster-wide": (
        "m3",
        {"clusterWide": True, "watchNamespaces": ["a"]},
        ["watchNamespaces must be empty when clusterWide is true"],
    ),
    "m3: a switch that is a string": ("m3", {"clusterWide": "yes"}, ["at '/clusterWide'", "got string, want boolean"]),
    "m3: an unknown pull policy": (
        "m3",
        {"image": {"pullPolicy": "Sometimes"}},
        ["at '/image/pullPolicy'", "'Always', 'IfNotPresent', 'Never'"],
    ),
    "m3: a tag that YAML read as a number": (
        "m3",
        {"image": {"tag": 1.1}},
        ["at '/image/tag'", "got number, want string"],
    ),
    "m3: an image without a name": (
        "m3",
        {"image": {"repository": ""}},
        ["at '/image/repository'", "minLength: got 0, want 1"],
    ),
    "m3: a tracking server without http": (
        "m3",
        {"mlflow": {"trackingUri": "mlflow:5000"}},
        ["at '/mlflow/trackingUri'", "'mlflow:5000'", "https?://"],
    ),
    "m3: a resync of nothing": ("m3", {"resyncSeconds": 0}, ["at '/resyncSeconds'", "minimum: got 0, want 1"]),
    "m3: a resync so rare that the operator looks dead": (
        "m3",
        {"resyncSeconds": 60},
        ["at '/resyncSeconds'", "maximum: got 60, want 30"],
    ),
    "m3: a resync with a unit": ("m3", {"resyncSeconds": "10s"}, ["at '/resyncSeconds'", "got string, want integer"]),
    "m3: an unknown log level": (
        "m3",
        {"logLevel": "VERBOSE"},
        ["at '/logLevel'", "'DEBUG', 'INFO', 'WARNING', 'ERROR'"],
    ),
    "m3: a port that only root may open": ("m3", {"probePort": 80}, ["at '/probePort'", "minimum: got 80, want 1,024"]),
    "m3: an account that nobody makes": (
        "m3",
        {"serviceAccount": {"create": False}},
        ["serviceAccount.name must name an existing service account"],
    ),
    "m3: memory in a unit that Kubernetes has not": (
        "m3",
        {"resources": {"limits": {"memory": "512MB"}}},
        ["at '/resources/limits/memory'", "'512MB'"],
    ),
    "m3: a pull secret by its bare name": (
        "m3",
        {"imagePullSecrets": ["registry"]},
        ["at '/imagePullSecrets/0'", "got string, want object"],
    ),
    "m3: a label that is a number": (
        "m3",
        {"podLabels": {"team": 7}},
        ["at '/podLabels/team'", "got number, want string"],
    ),
    "m3: alerts on what nobody scrapes": (
        "m3",
        {"metrics": {"prometheusRule": {"enabled": True}}},
        ["metrics.prometheusRule.enabled must go with metrics.serviceMonitor.enabled"],
    ),
    "m3: an interval with a unit": (
        "m3",
        {"metrics": {"serviceMonitor": {"intervalSeconds": "30s"}}},
        ["at '/metrics/serviceMonitor/intervalSeconds'", "got string, want integer"],
    ),
    "m3: so few looks at the metrics that no alert sees two": (
        "m3",
        {"metrics": {"serviceMonitor": {"intervalSeconds": 300}}},
        ["at '/metrics/serviceMonitor/intervalSeconds'", "maximum: got 300, want 120"],
    ),
    "m3: a misspelt switch of the metrics": (
        "m3",
        {"metrics": {"dashboards": {"enabled": True}}},
        ["at '/metrics'", "additional properties 'dashboards' not allowed"],
    ),
    "m3: a dashboard whose label is a number": (
        "m3",
        {"metrics": {"dashboard": {"labels": {"grafana_dashboard": 1}}}},
        ["at '/metrics/dashboard/labels/grafana_dashboard'", "got number, want string"],
    ),
    "m3: a label that Kubernetes refuses": (
        "m3",
        {"metrics": {"serviceMonitor": {"labels": {"team": "fraud and risk"}}}},
        ["at '/metrics/serviceMonitor/labels/team'", "'fraud and risk'"],
    ),
    "m3: a label of an alert that Prometheus refuses": (
        "m3",
        {"metrics": {"prometheusRule": {"alertLabels": {"my-team": "x"}}}},
        ["at '/metrics/prometheusRule/alertLabels'", "additional properties 'my-team' not allowed"],
    ),
    "mlflow: a misspelt value": (
        "mlflow",
        {"persistence": {"existingclaim": "x"}},
        ["at '/persistence'", "additional properties 'existingclaim' not allowed"],
    ),
    "mlflow: replicas, which SQLite cannot have": (
        "mlflow",
        {"replicas": 3},
        ["additional properties 'replicas' not allowed"],
    ),
    "mlflow: every host allowed": (
        "mlflow",
        {"extraAllowedHosts": ["*"]},
        ["at '/extraAllowedHosts/0'", "'*' does not match"],
    ),
    "mlflow: a host with a scheme": (
        "mlflow",
        {"extraAllowedHosts": ["http://gateway"]},
        ["at '/extraAllowedHosts/0'", "'http://gateway'"],
    ),
    "mlflow: every origin allowed": ("mlflow", {"corsAllowedOrigins": ["https://*"]}, ["at '/corsAllowedOrigins/0'"]),
    "mlflow: an origin without a scheme": ("mlflow", {"corsAllowedOrigins": ["ml.org"]}, ["'ml.org'", "https?://"]),
    "mlflow: a path as the database": (
        "mlflow",
        {"backendStoreUri": "/mlflow/mlruns"},
        ["at '/backendStoreUri'", "sqlite|postgresql"],
    ),
    "mlflow: artifacts in a relative folder": (
        "mlflow",
        {"artifactsDestination": "artifacts"},
        ["at '/artifactsDestination'", "'artifacts'"],
    ),
    "mlflow: no worker": ("mlflow", {"workers": 0}, ["at '/workers'", "minimum: got 0, want 1"]),
    "mlflow: a size without a unit": (
        "mlflow",
        {"persistence": {"size": "5"}},
        ["at '/persistence/size'", "'5'", "Gi"],
    ),
    "mlflow: a volume that nobody may write to": (
        "mlflow",
        {"persistence": {"accessModes": ["ReadOnlyMany"]}},
        ["at '/persistence/accessModes/0'", "'ReadWriteOnce', 'ReadWriteOncePod', 'ReadWriteMany'"],
    ),
    "mlflow: a port beyond the last": ("mlflow", {"service": {"port": 70000}}, ["maximum: got 70,000, want 65,535"]),
    "mlflow: an unknown kind of service": (
        "mlflow",
        {"service": {"type": "Public"}},
        ["at '/service/type'", "'ClusterIP'"],
    ),
    "mlflow: an ingress without a host": (
        "mlflow",
        {"ingress": {"enabled": True}},
        ["ingress.host must name the host under which browsers reach MLflow"],
    ),
    "mlflow: a variable without a name": (
        "mlflow",
        {"extraEnv": [{"value": "x"}]},
        ["at '/extraEnv/0'", "missing property 'name'"],
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_refused(charts, sentence):
    chart, values, parts = REFUSED[sentence]
    message = charts.refusal(chart, values)
    assert [part for part in parts if part not in message] == [], message
    assert len(message) < 600, "a message is read by a person"


def test_every_fault_is_named_at_once(charts):
    message = charts.refusal("m3", {"logLevel": "LOUD", "probePort": 1, "mlflow": {"uiUrl": "x"}})
    for path in ("/logLevel", "/probePort", "/mlflow/uiUrl"):
        assert f"at '{path}'" in message
