"""charts/m3: the Service, ServiceMonitor, alerts and dashboard are there when asked for, and speak of metrics that exist.

Prometheus' own promtool reads the rules, and says which alerts fire in the scenes below.
"""

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from m3_operator.api.reasons import Reason
from m3_operator.metrics import Metrics

ROOT = Path(__file__).parents[2]

ON = {
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    }
}
KINDS = ("Service", "ServiceMonitor", "PrometheusRule", "ConfigMap")

SWITCHES = {
    "nothing by default": ({}, ()),
    "a Service for a Prometheus of any kind": ({"service": {"enabled": True}}, ("Service",)),
    "a ServiceMonitor with its Service": ({"serviceMonitor": {"enabled": True}}, ("Service", "ServiceMonitor")),
    "alerts with what feeds them": (
        {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
        ("Service", "ServiceMonitor", "PrometheusRule"),
    ),
    "a dashboard alone": ({"dashboard": {"enabled": True}}, ("ConfigMap",)),
    "all of it": (ON["metrics"], KINDS),
}


@pytest.mark.parametrize("sentence", SWITCHES)
def test_made(charts, sentence):
    values, expected = SWITCHES[sentence]
    rendered = charts.render("m3", {"metrics": values})
    assert [kind for kind in KINDS if rendered.all(kind)] == list(expected)


# --- scraping ---------------------------------------------------------------------------------------------------------
def test_the_service_leads_to_the_probes_port_of_the_operators_pod(charts):
    rendered = charts.render("m3", ON | {"probePort": 9090})
    service, pod = rendered.one("Service"), rendered.one("Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["ports"] == [{"name": "metrics", "port": 9090, "targetPort": "probes"}]
    assert [port["name"] for port in rendered.container["ports"]] == ["probes"]


def test_an_operator_that_is_not_well_still_tells_how_it_is(charts):
    assert charts.render("m3", ON).one("Service")["spec"]["publishNotReadyAddresses"] is True


def test_the_service_monitor_finds_that_service_alone(charts):
    rendered = charts.render("m3", ON)
    service, spec = rendered.one("Service"), rendered.one("ServiceMonitor")["spec"]
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert spec["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "m3"
    assert spec["namespaceSelector"] == {"matchNames": [service["metadata"]["namespace"]]}
    assert spec["endpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "30s"}]


def test_prometheus_finds_monitor_and_rules_by_labels_of_ones_own(charts):
    labels = {"release": "prometheus"}
    monitor, rule = ({**ON["metrics"][kind], "labels": labels} for kind in ("serviceMonitor", "prometheusRule"))
    rendered = charts.render("m3", {"metrics": {"serviceMonitor": monitor, "prometheusRule": rule}})
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert rendered.one(kind)["metadata"]["labels"]["release"] == "prometheus"


# --- what the operator exposes ----------------------------------------------------------------------------------------
def exposed() -> dict[str, set[str]]:
    """Every series of an operator that has had one of everything, with the names of its labels."""
    metrics = Metrics()
    metrics.reconcile_errors.labels("Refused").inc()
    metrics.api_requests.labels("list", "trainingjobs", "200").inc()
    metrics.show_jobs({"Running": 1})
    for event in ("JobComplete", "JobFailed", "AttemptFailed"):
        metrics.count(event)
    series = [sample for family in metrics.registry.collect() for sample in family.samples]
    return {
        sample.name: {name for each in series if each.name == sample.name for name in each.labels} for sample in series
    }


OF_THE_TARGET = {"namespace", "job"}
"""Labels that Prometheus gives to what it has scraped by a ServiceMonitor."""
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
MATCHERS = re.compile(r"\{([^}]*)\}")
KEYWORDS = {"and", "or", "unless", "bool", "offset"}


def without_texts(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)


def metrics_in(expression: str) -> set[str]:
    """Every word that is no function, keyword, label or duration."""
    bare = without_texts(expression)
    for part in (MATCHERS, GROUPING, re.compile(r"\[[^]]*\]")):
        bare = part.sub(" ", bare)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - KEYWORDS


def labels_in(expression: str) -> set[str]:
    bare = without_texts(expression)
    grouped = {name.strip() for names in GROUPING.findall(bare) for name in names.split(",") if name.strip()}
    return grouped | {name for matchers in MATCHERS.findall(bare) for name in re.findall(r"(\w+)\s*[=!]", matchers)}


def faults(expression: str) -> list[str]:
    """What an expression speaks of that the operator does not expose."""
    known, used = exposed(), metrics_in(expression)
    labels = OF_THE_TARGET.union(*(known.get(name, set()) for name in used))
    return [f"{name} in {expression}" for name in sorted(used - known.keys()) + sorted(labels_in(expression) - labels)]


def alerts(charts, **values: Any) -> list[dict[str, Any]]:
    (group,) = charts.render("m3", ON | values).one("PrometheusRule")["spec"]["groups"]
    return group["rules"]


def dashboard(charts) -> dict[str, Any]:
    (text,) = charts.render("m3", ON).one("ConfigMap")["data"].values()
    return json.loads(text)


def shown(charts) -> Iterator[str]:
    """The dashboard's expressions as Grafana would ask them."""
    for panel in dashboard(charts)["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m")


def test_the_alerts_speak_of_what_the_operator_exposes(charts):
    assert [fault for alert in alerts(charts) for fault in faults(alert["expr"])] == []
    assert all(metrics_in(alert["expr"]) for alert in alerts(charts))


def test_the_dashboard_speaks_of_what_the_operator_exposes(charts):
    assert [fault for expression in shown(charts) for fault in faults(expression)] == []


def test_the_dashboard_shows_every_metric(charts):
    on_it = {name for expression in shown(charts) for name in metrics_in(expression)}
    assert {name for name in exposed() if not name.endswith("_created")} == on_it


MISTAKEN = {
    "a counter without its end": ("rate(m3_reconcile_errors[5m])", {"m3_reconcile_errors"}),
    "a histogram without its part": ("m3_reconcile_duration_seconds > 1", {"m3_reconcile_duration_seconds"}),
    "a letter": ('sum(m3_job{condition="Running"})', {"m3_job", "condition"}),
    "a label to group by": ("sum by (reason) (m3_jobs)", {"reason"}),
    "a label to select by": ('m3_jobs{phase=~"A|B"} and on () m3_tracking_up == 1', {"phase"}),
    "another metric's label": ("sum by (le) (m3_reconcile_duration_seconds_sum)", {"le"}),
    "none": (
        "histogram_quantile(0.9, sum by (le, job) (rate(m3_reconcile_duration_seconds_bucket[1h] offset 1d)))",
        set(),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKEN)
def test_the_check_itself_finds(mistake):
    expression, words = MISTAKEN[mistake]
    assert {fault.split()[0] for fault in faults(expression)} == words


# --- alerts -----------------------------------------------------------------------------------------------------------
REQUESTS = "m3_kubernetes_requests_total"
LIST = f'{REQUESTS}{{verb="list",resource="trainingjobs",code="200"}}'
WELL = {
    "m3_last_reconcile_age_seconds": "3x200",
    LIST: "0+3x200",
    'm3_reconcile_errors_total{error="Conflict"}': "0+1x200",
    "m3_workqueue_oldest_seconds": "0x200",
    "m3_tracking_up": "1x200",
    'm3_jobs{condition="Running"}': "2x200",
    'm3_jobs{condition="Queued"}': "9x200",
    'm3_jobs_finished_total{condition="Complete"}': "0+1x200",
    'm3_jobs_finished_total{condition="Failed"}': "0x200",
}
"""An operator at work, looked at each 30 s."""
GONE = dict.fromkeys(WELL, "0+1x20 stale")
FAILED, COMPLETE = (f'm3_jobs_finished_total{{condition="{each}"}}' for each in ("Failed", "Complete"))

# what is seen beside WELL, or instead of it; which alerts fire, at some times
SCENES = {
    "all is well": ({}, {"6m": (), "80m": ()}),
    "its pod is gone from the tenth minute on": (GONE, {"14m": (), "18m": ("M3OperatorDown",)}),
    "it hangs, and its probe does not help": (
        {"m3_last_reconcile_age_seconds": "3x20 30+30x60", LIST: "0+3x20 60x60"},
        {"12m": (), "14m": ("M3OperatorNotReconciling",), "30m": ("M3OperatorNotReconciling",)},
    ),
    "it hangs, and its probe restarts it": (
        {"m3_last_reconcile_age_seconds": "3x20 30 60 90 3x60"},
        {"12m": (), "14m": (), "20m": ()},
    ),
    "the API server stops to answer": (
        {LIST: "0+3x20 60x60", 'm3_reconcile_errors_total{error="ClusterUnavailable"}': "0x60"},
        {"14m": (), "22m": ("M3OperatorSeesNoJobs",)},
    ),
    "it was never let in": (
        {LIST: "_x60", f'{REQUESTS}{{verb="list",resource="trainingjobs",code="403"}}': "0+1x60"},
        {"4m": (), "12m": ("M3OperatorSeesNoJobs", "M3RequestsDenied")},
    ),
    "its Role does not have the rule": (
        {f'{REQUESTS}{{verb="patch",resource="trainingjobs/status",code="403"}}': "0x20 0+1x60"},
        {"10m": (), "20m": ("M3RequestsDenied",)},
    ),
    "a namespace's quota is used up": (
        {f'{REQUESTS}{{verb="create",resource="rayjobs",code="403"}}': "0+1x60"},
        {"20m": ()},
    ),
    "one job's pass fails again and again": (
        {'m3_reconcile_errors_total{error="Refused"}': "0x20 0+1x60"},
        {"20m": (), "26m": ("M3ReconcileErrors",)},
    ),
    "the API server is away for two minutes": (
        {'m3_reconcile_errors_total{error="ClusterUnavailable"}': "0x20 0+9x4 36x60"},
        {"12m": (), "18m": (), "24m": (), "30m": ()},
    ),
    "jobs wait and wait": (
        {"m3_workqueue_oldest_seconds": "0x20 60x60"},
        {"14m": (), "18m": ("M3QueueAge",)},
    ),
    "many jobs come at once": ({"m3_workqueue_oldest_seconds": "0x20 60x6 0x60"}, {"12m": (), "18m": ()}),
    "MLflow is down": ({"m3_tracking_up": "1x20 0x60"}, {"14m": (), "18m": ("M3MlflowDown",)}),
    "MLflow is updated": ({"m3_tracking_up": "1x20 0x6 1x60"}, {"12m": (), "18m": ()}),
    "most jobs fail": (
        {FAILED: "0x20 0+1x60", COMPLETE: "0x200"},
        {"10m": (), "30m": ("M3JobsFailing",)},
    ),
    "a few jobs of many fail": ({FAILED: "0x20 0+1x10 10x60"}, {"40m": ()}),
    "the only two jobs of the day fail": ({FAILED: "0x20 1x10 2x60", COMPLETE: "0x200"}, {"40m": ()}),
    "a job finds no node": (
        {'m3_jobs{condition="Unschedulable"}': "_x20 1x60"},
        {"20m": (), "27m": ("M3JobsStuck",)},
    ),
    "a job finds a node after a while": (
        {'m3_jobs{condition="Unschedulable"}': "_x20 1x20 stale"},
        {"20m": (), "27m": ()},
    ),
}


def labelled(series: str) -> str:
    """As Prometheus stores it, with the labels of what was scraped."""
    name, _, labels = series.partition("{")
    return f'{name}{{namespace="m3-system",job="m3-operator"{"," if labels else ""}{labels or "}"}'


def scene(name: str, seen: dict[str, str], times: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """As promtool reads it: by `count by`, so that no alert may fire but these."""
    firing = [
        {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": time,
            "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
        }
        for time, alerts in times.items()
    ]
    series = [{"series": labelled(name), "values": values} for name, values in {**WELL, **seen}.items()]
    return {"name": name, "interval": "30s", "input_series": series, "promql_expr_test": firing}


@pytest.fixture
def check(charts, promtool, tmp_path):
    """What promtool says to files of this folder, in which the chart's rules are."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(charts.render("m3", ON).one("PrometheusRule")["spec"]))

    def run(*arguments: str, **file: Any) -> str:
        (tmp_path / "file.yaml").write_text(yaml.safe_dump(file))
        done = subprocess.run(
            [str(promtool), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_promtool_takes_the_rules(charts, check):
    assert f"{len(alerts(charts))} rules found" in check("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")


def test_promtool_takes_what_the_dashboard_asks(charts, check):
    rules = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(shown(charts))]
    said = check("check", "rules", "--lint=none", "file.yaml", groups=[{"name": "dashboard", "rules": rules}])
    assert f"{len(rules)} rules found" in said


@pytest.mark.parametrize("name", SCENES)
def test_alerts_fire_when(check, name):
    check("test", "rules", "file.yaml", rule_files=["rules.yaml"], tests=[scene(name, *SCENES[name])])


def test_every_alert_is_seen_firing(charts):
    seen = {alert for _, times in SCENES.values() for alerts in times.values() for alert in alerts}
    assert seen == {alert["alert"] for alert in alerts(charts)}


def test_the_readme_lists_the_alerts(charts):
    text = (ROOT / "charts" / "m3" / "README.md").read_text()
    assert re.findall(r"\| `(M3\w+)` \|", text) == [alert["alert"] for alert in alerts(charts)]


def test_an_alert_says_whom_it_speaks_of(charts, check):
    (stuck,) = (alert for alert in alerts(charts) if alert["alert"] == "M3JobsStuck")
    expected = {
        "exp_labels": {"condition": "Unschedulable", "severity": "warning"},
        "exp_annotations": stuck["annotations"]
        | {
            "summary": "Jobs do not start, Unschedulable",
            "description": stuck["annotations"]["description"].replace("{{ $value }}", "3"),
        },
    }
    series = [{"series": labelled('m3_jobs{condition="Unschedulable"}'), "values": "3x60"}]
    case = {"eval_time": "20m", "alertname": "M3JobsStuck", "exp_alerts": [expected]}
    tests = [{"interval": "30s", "input_series": series, "alert_rule_test": [case]}]
    check("test", "rules", "file.yaml", rule_files=["rules.yaml"], tests=tests)


def test_every_alert_says_what_is_wrong_and_what_to_do(charts):
    for alert in alerts(charts):
        assert alert["annotations"].keys() == {"summary", "description", "runbook"}, alert["alert"]
        assert all(text.strip() for text in alert["annotations"].values())
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["for"]


def test_alerts_speak_of_their_own_release(charts):
    (group,) = charts.render("m3", ON, release="blue", namespace="ml").one("PrometheusRule")["spec"]["groups"]
    service = charts.render("m3", ON, release="blue", namespace="ml").one("Service")["metadata"]
    assert group["name"] == f"ml/{service['name']}"
    for alert in group["rules"]:
        selectors = MATCHERS.findall(alert["expr"])
        assert selectors
        assert all(each.startswith(f'namespace="ml",job="{service["name"]}"') for each in selectors), alert["expr"]


ALERT_LABELS = {
    "go to every alert": (
        {"team": "ml"},
        [{"severity": "critical", "team": "ml"}, {"severity": "warning", "team": "ml"}],
    ),
    "may say how severe it is": ({"severity": "page"}, [{"severity": "page"}]),
}


@pytest.mark.parametrize("sentence", ALERT_LABELS)
def test_labels_of_alerts(charts, sentence):
    labels, expected = ALERT_LABELS[sentence]
    rule = {"enabled": True, "alertLabels": labels}
    found = [alert["labels"] for alert in alerts(charts, metrics=ON["metrics"] | {"prometheusRule": rule})]
    assert sorted({json.dumps(each, sort_keys=True) for each in found}) == [json.dumps(each) for each in expected]


def test_a_job_is_stuck_for_every_reason_that_keeps_it_from_starting(charts):
    """But the one that is somebody's wish. And what the alert looks for is a word that the operator says."""
    (stuck,) = (alert for alert in alerts(charts) if alert["alert"] == "M3JobsStuck")
    (words,) = re.findall(r'condition=~"([^"]*)"', stuck["expr"])
    table = (
        (ROOT / "operator" / "README.md")
        .read_text()
        .split("#### A job that does not start")[1]
        .split("\nA failing job")[0]
    )
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert set(words.split("|")) == documented - {"RayJobSuspended"} | {"WaitingForName"}
    assert set(words.split("|")) <= set(Reason)


# --- the dashboard ----------------------------------------------------------------------------------------------------
def test_grafana_finds_the_dashboard_by_the_label_that_it_looks_for(charts):
    metadata = charts.render("m3", ON).one("ConfigMap")["metadata"]
    assert metadata["labels"]["grafana_dashboard"] == "1"
    assert "annotations" not in metadata
    own = {"enabled": True, "labels": {"grafana_dashboard": None, "grafana": "ml"}, "annotations": {"folder": "M3"}}
    metadata = charts.render("m3", {"metrics": {"dashboard": own}}).one("ConfigMap")["metadata"]
    assert "grafana_dashboard" not in metadata["labels"]
    assert (metadata["labels"]["grafana"], metadata["annotations"]) == ("ml", {"folder": "M3"})


def test_panels_have_ids_of_their_own_and_do_not_overlap(charts):
    panels = dashboard(charts)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 0
    taken = list(itertools.chain.from_iterable(cells(**panel["gridPos"]) for panel in panels))
    assert len(set(taken)) == len(taken)
    assert all(0 <= x < 24 for x, _ in taken), "Grafana's grid is 24 columns wide"


def cells(x: int, y: int, w: int, h: int) -> Iterator[tuple[int, int]]:
    return itertools.product(range(x, x + w), range(y, y + h))


def test_every_panel_says_what_it_shows_and_asks_the_prometheus_that_is_chosen(charts):
    board = dashboard(charts)
    assert (
        board["templating"]["list"][0] | {"type": "datasource", "query": "prometheus"} == board["templating"]["list"][0]
    )
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["description"], panel["title"]
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {"${datasource}"}


def test_every_panel_shows_the_operator_that_is_chosen(charts):
    board = dashboard(charts)
    chosen = {each["name"] for each in board["templating"]["list"]}
    for expression in shown(charts):
        assert set(re.findall(r"\$(\w+)", expression)) == {"namespace", "job"} <= chosen
        assert all(each.startswith('namespace=~"$namespace",job=~"$job"') for each in MATCHERS.findall(expression))
