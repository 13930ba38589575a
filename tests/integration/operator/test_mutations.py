"""Accepted or refused, nothing between: every leaf of the schema, changed in every way that comes to mind.

A change is judged by three: the models (what `m3` says), a real API server (what `kubectl apply` says), and, where the server
accepts, by the operator's own decision and what Kubernetes says about the pods that would come of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from pydantic import ValidationError

from m3_operator.api.v1alpha1 import TrainingJob
from m3_operator.draft import Observed, Plan
from m3_operator.reconcile import reconcile, refuse
from m3_operator.settings import Settings
from m3_operator.world import read
from m3_trainer.schema import explain

ROOT = Path(__file__).parents[3]
CRD = yaml.safe_load((ROOT / "manifests" / "crds" / "m3.dev_trainingjobs.yaml").read_text())
SPEC = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MIB = 2**20
REMOVED = object()

Steps = tuple[str | int, ...]
Schema = dict[str, Any]
Document = dict[str, Any]

# --- valid jobs that have between them every field --------------------------------------------------------------------
POD: Document = {
    "resources": {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"cpu": 2, "memory": "4Gi", "nvidia.com/gpu": 1},
    },
    "env": [
        {"name": "LEVEL", "value": "debug"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "store", "optional": True}}},
        {"name": "REGION", "valueFrom": {"configMapKeyRef": {"name": "regions", "key": "default", "optional": False}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
    "volumes": [
        {
            "name": "rows", "mountPath": "/data", "subPath": "today", "readOnly": True,
            "persistentVolumeClaim": {"claimName": "rows"},
        },
        {"name": "scratch", "mountPath": "/scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"name": "settings", "mountPath": "/settings", "configMap": {"name": "settings"}},
        {"name": "keys", "mountPath": "/keys", "secret": {"secretName": "keys"}},
    ],
    "nodeSelector": {"disk": "fast"},
    "tolerations": [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60},
    ],
}  # fmt: skip
LIMITS = {
    "suspend": False, "backoffLimit": 1, "activeDeadlineSeconds": 3600, "preRunningDeadlineSeconds": 600,
    "ttlSecondsAfterFinished": 86400,
}  # fmt: skip
IN_THE_CLUSTER: Document = {
    "data": {
        "uri": "s3://bucket/rows", "format": "parquet", "target": "y", "timeColumn": "t", "customerColumn": "c",
        "sampleSize": 1000, "secretRef": {"name": "credentials"}, "expectedDigest": "sha256:" + "0" * 64,
    },
    "features": {
        "exclude": ["a"],
        "calendar": ["weekend", "night"],
        "windows": [
            {
                "key": "c", "of": "a", "days": [1, 7], "delayDays": 7, "ownRow": False,
                "statistics": ["count", "mean", "ratio"],
            },
        ],
    },
    "model": {"type": "random_forest", "randomState": 7, "hyperparameters": {"n_estimators": 5, "max_features": "sqrt"}},
    "training": {
        "cvFolds": 3,
        "split": {
            "trainStart": "2018-07-25", "trainDays": 21, "delayDays": 7, "testDays": 7, "validationDays": 7,
            "excludeKnown": "c",
        },
    },
    "evaluation": {
        "metrics": ["roc_auc", "card_precision_at_k"], "threshold": 0.4, "topK": 50, "segments": ["country"],
    },
    "tracking": {"experimentName": "trial"},
    "registry": {
        "modelName": "detector",
        "promotion": {"alias": "champion", "metric": "roc_auc", "mode": "max", "minImprovement": 0.01},
    },
    "image": "registry.example/team/trainer:1.2",
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "trainer",
    "storage": {"uri": "s3://bucket/checkpoints"},
    "ray": {"head": POD, "workers": POD | {"replicas": 2}},
    **LIMITS,
}  # fmt: skip
ON_A_WARM_CLUSTER: Document = {
    "data": {"uri": "postgresql://db/shop", "query": "select * from transactions", "target": "y"},
    "features": {"include": ["a", "b"], "categorical": ["country"], "dates": ["birthday"]},
    "model": {
        "type": "xgboost",
        "positiveWeight": 20,
        "calibration": "isotonic",
        "earlyStopping": {"rounds": 10, "metric": "roc_auc"},
    },
    "training": {"testSize": 0.3, "validationSize": 0.25},
    "evaluation": {"thresholdFor": {"cost": {"falsePositive": 1, "falseNegative": 100}}},
    "ray": {"clusterSelector": {"ray.io/cluster": "warm"}},
}
WITH_A_CLAIM: Document = {
    "data": {"uri": "rows.csv", "target": "y", "timeColumn": "t"},
    "training": {
        "split": {"trainStart": "2018-08-15", "trainDays": 7, "testDays": 7, "validationDays": 2},
        "folds": {"count": 4, "stepDays": 7},
    },
    "model": {"type": "shop.models:Forest", "hyperparameters": {"depth": None}, "classWeight": "balanced"},
    "evaluation": {"thresholdFor": {"precision": 0.9}},
    "storage": {"persistentVolumeClaim": "checkpoints"},
}
WITH_RECALL: Document = {"data": {"uri": "rows.csv", "target": "y"}, "evaluation": {"thresholdFor": {"recall": 0.8}}}
BASES = {"in the cluster": IN_THE_CLUSTER, "warm": ON_A_WARM_CLUSTER, "claim": WITH_A_CLAIM, "recall": WITH_RECALL}


# --- what can be done to them -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Mutation:
    base: str
    steps: Steps
    leaf: str
    """Its place in the schema, with `[]` for items and `*` for keys."""
    what: str
    value: Any

    def __str__(self) -> str:
        return f"{self.path} {self.what} ({self.base})"

    @property
    def path(self) -> str:
        return ".".join(["spec", *map(str, self.steps)])

    @property
    def document(self) -> Document:
        spec = json.loads(json.dumps(BASES[self.base]))  # not deepcopy: what head and workers share would stay shared
        *way, last = self.steps
        parent: Any = spec
        for step in way:
            parent = parent[step]
        if self.value is REMOVED:
            del parent[last]
        else:
            parent[last] = self.value
        return job("fraud-rf", spec)


def job(name: str, spec: Document) -> Document:
    return {"apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}


def places(
    schema: Schema, value: Any, steps: Steps = (), leaf: str = "spec"
) -> Iterator[tuple[Steps, str, Schema, Any]]:
    """Each value of a document with its place in the schema."""
    if steps:
        yield steps, leaf, schema, value
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(schema["items"], item, (*steps, index), f"{leaf}[]")
    elif isinstance(value, dict):
        for name, item in value.items():
            known = schema.get("properties", {}).get(name)
            inner = known or schema["additionalProperties"]
            yield from places(inner, item, (*steps, name), f"{leaf}.{name}" if known else f"{leaf}.*")


def leaves(schema: Schema, leaf: str = "spec") -> Iterator[str]:
    inner = [(f".{name}", child) for name, child in schema.get("properties", {}).items()]
    inner += [
        (mark, schema[name]) for mark, name in (("[]", "items"), (".*", "additionalProperties")) if name in schema
    ]
    if not inner:
        yield leaf
    for step, child in inner:
        yield from leaves(child, leaf + step)


STRANGE_TEXTS = {
    "empty": "", "a space": " ", "an emoji": "🦀", "umlauts": "größe", "from right to left": "\u202eabc",
    "a zero byte": "a\0b", "a bell": "a\ab", "a line separator": "a\u2028b", "a line break": "\n", "a BOM": "\ufeffa",
    "a fullwidth digit": "\uff11", "1 MiB": "x" * MIB, "a path upwards": "../../etc", "for a shell": "$(reboot); `id`",
    "a no-break space": "a\u00a0b", "only a no-break space": "\u00a0",
}  # fmt: skip
WRONG_TYPES = {
    "a text": "1", "a word": "yes", "a whole number": 1, "zero": 0, "a negative number": -1, "a fraction": 1.5,
    "too large a number": 1e300, "2^63": 2**63, "true": True, "false": False, "a list": [], "a list in a list": [[]],
    "a mapping": {}, "a mapping of nonsense": {"nonsense": 1},
}  # fmt: skip
ABSENT = {"null": None, "removed": REMOVED}


def changes(schema: Schema, value: Any) -> Iterator[tuple[str, Any]]:
    yield from (WRONG_TYPES | ABSENT).items()
    yield from _beyond_bounds(schema, value)
    if schema.get("type") in ("integer", "number"):
        yield "a whole number as a fraction", 3.0
    if isinstance(value, str):
        yield from STRANGE_TEXTS.items()
        yield from {
            "a line break at its end": f"{value}\n", "a space at its end": f"{value} ", "a space first": f" {value}",
            "doubled": value * 2, "in capitals": value.upper(), "a zero byte at its end": f"{value}\0",
        }.items()  # fmt: skip
    if isinstance(value, dict) and "additionalProperties" in schema:
        first = next(iter(value.values()))
        yield from ((f"with a key: {what}", value | {text: first}) for what, text in STRANGE_TEXTS.items())


def _beyond_bounds(schema: Schema, value: Any) -> Iterator[tuple[str, Any]]:
    for bound, step in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            yield f"at its {bound}", schema[bound]
            yield f"beyond its {bound}", schema[bound] + step
    if "maxLength" in schema:
        yield "as long as it may be", "a" * schema["maxLength"]
        yield "too long", "a" * (schema["maxLength"] + 1)
    if "maxItems" in schema:
        yield "too many", value[:1] * (schema["maxItems"] + 1)
    if "maxProperties" in schema:
        yield (
            "too many",
            dict.fromkeys(map("k{}".format, range(schema["maxProperties"] + 1)), next(iter(value.values()))),
        )


def mutations() -> list[Mutation]:
    """All changes of each place. Where its schema stands elsewhere, too, all of them there and the plainest here."""
    found: dict[str, list[Mutation]] = {}
    known: list[Schema] = []
    for base, spec in BASES.items():
        for steps, leaf, schema, value in places(SPEC, spec):
            if leaf in found:
                continue
            plain = {name: part for name, part in schema.items() if name not in ("description", "default")}
            some = (
                {"a list in a list": [[]], "1 MiB": "x" * MIB} | ABSENT
                if plain in known
                else dict(changes(schema, value))
            )
            known.append(plain)
            found[leaf] = [Mutation(base, steps, leaf, what, new) for what, new in some.items()]
    return [mutation for group in found.values() for mutation in group]


MUTATIONS = mutations()


# --- who says what ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    mutation: Mutation
    refusal: str | None
    """What the API server says against it; None where it accepts."""
    stored: Document
    faults: list[str]
    """What the models say against it."""


@pytest.fixture(scope="module")
def post(api_server) -> Iterator[Callable[[str, Document], tuple[str | None, Document]]]:
    """Ask for an object by a dry run: why it is refused, and how it would be stored.

    By bare HTTP: the generated client needs longer for a request than the server.
    """
    with api_server.api() as api:
        headers = {"Content-Type": "application/json", "Authorization": api.configuration.api_key["authorization"]}

        def ask(collection: str, document: Document) -> tuple[str | None, Document]:
            url = f"{api.configuration.host}/{collection}?dryRun=All&fieldValidation=Strict"
            answer = api.rest_client.pool_manager.request("POST", url, body=json.dumps(document), headers=headers)
            body = json.loads(answer.data)
            return (None, body) if answer.status == 201 else (body["message"], {})

        yield ask


@pytest.fixture(scope="module")
def verdicts(post) -> list[Verdict]:
    def judge(mutation: Mutation) -> Verdict:
        refusal, stored = post(TRAINING_JOBS, mutation.document)
        return Verdict(mutation, refusal, stored, faults(mutation.document))

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(judge, MUTATIONS))


TRAINING_JOBS = "apis/m3.dev/v1alpha1/namespaces/default/trainingjobs"
RAY_JOBS = "apis/ray.io/v1/namespaces/default/rayjobs"
POD_TEMPLATES = "api/v1/namespaces/default/podtemplates"


def faults(document: Document) -> list[str]:
    try:
        TrainingJob.parse(document)
    except ValidationError as error:
        return explain(error, TrainingJob)
    return []


ONLY_PYTHON_KNOWS = re.compile("hyperparameter|the workload must be at most 65536 bytes|`trainDays` must be more than")
KUBERNETES_WORDS = re.compile(
    "must|should be|may not be|Required value|Unsupported value: .*supported values|unknown field|in body should"
)


def told(problems: list[str]) -> str:
    return "\n".join([f"{len(problems)} of {len(MUTATIONS)} mutations:", *problems])


# --- the tests --------------------------------------------------------------------------------------------------------
def test_every_leaf_of_the_schema_is_changed():
    assert set(leaves(SPEC)) - {mutation.leaf for mutation in MUTATIONS} == set()
    assert len(MUTATIONS) > 2000


def test_what_is_changed_was_good(post):
    for spec in BASES.values():
        assert post(TRAINING_JOBS, job("fraud-rf", spec))[0] is None
        assert faults(job("fraud-rf", spec)) == []


def test_a_pod_that_kubernetes_refuses_would_be_noticed(post):
    """The templates are judged as pods are; else the tests below would say nothing."""
    _, stored = post(TRAINING_JOBS, job("fraud-rf", IN_THE_CLUSTER))
    (rayjob,) = decided(stored).apply
    made = list(made_of(rayjob))
    assert [post(*one)[0] for one in made] == [None, None, None]
    collection, template = made[1]
    template["template"]["spec"]["nodeSelector"] = {"disk": "very fast"}
    assert "template.spec.nodeSelector: Invalid value" in (post(collection, template)[0] or "accepted")


def test_api_server_and_models_agree(verdicts):
    """Refused by both or by none, but for what only Python can know."""
    problems = []
    for verdict in verdicts:
        only_python = all(ONLY_PYTHON_KNOWS.search(fault) for fault in verdict.faults)
        if verdict.refusal and not verdict.faults:
            problems.append(f"{verdict.mutation}: only the API server refuses: {verdict.refusal[:300]}")
        if verdict.faults and not verdict.refusal and not only_python:
            problems.append(f"{verdict.mutation}: only the models refuse: {verdict.faults}")
    assert not problems, told(problems)


def test_every_refusal_says_where_and_what_must_be(verdicts):
    """`m3` says "must", in short; of the API server's messages the rules' are ours, and the rest Kubernetes' own."""
    problems = []
    for verdict in verdicts:
        path = verdict.mutation.path
        problems += [
            f"{verdict.mutation}: m3 says: {fault[:300]}"
            for fault in verdict.faults
            if "must" not in fault or len(fault) > 1000 or not is_near(fault.split(": ")[0], path)
        ]
        if verdict.refusal and not KUBERNETES_WORDS.search(verdict.refusal):
            problems.append(f"{verdict.mutation}: the API server says: {verdict.refusal[:300]}")
    assert not problems, told(problems)


def is_near(told_path: str, path: str) -> bool:
    """Whether a message is about the changed value, what it is part of, or a part of it."""
    return path.startswith(told_path.removesuffix("...")) or told_path.startswith(path)


def test_what_is_accepted_runs_or_fails_at_once(verdicts, post):
    """The operator makes a RayJob whose pods Kubernetes takes, or says InvalidSpec: nothing hangs, nothing is tried for ever."""
    problems = []
    for verdict in verdicts:
        if verdict.refusal is None:
            problems += [f"{verdict.mutation}: {problem}" for problem in what_comes_of(verdict.stored, post)]
    assert not problems, told(problems)


def what_comes_of(stored: Document, post: Callable[[str, Document], tuple[str | None, Document]]) -> Iterator[str]:
    plan = decided(stored)
    conditions = {item["type"]: item for item in (plan.status or {}).get("conditions", ())}
    failed = conditions.get("Failed")
    if failed:
        if failed["reason"] != "InvalidSpec" or "must" not in failed["message"] or plan.apply:
            yield f"fails as {failed}"
        return
    if "Suspended" in conditions and not plan.apply:
        return
    (rayjob,) = plan.apply
    yield from filter(None, (post(collection, document)[0] for collection, document in made_of(rayjob)))


def decided(stored: Document) -> Plan:
    reading, observed = read(stored), Observed(Settings())
    if reading.job is None:
        return refuse(reading.meta, reading.status, reading.faults, observed, NOON)
    return reconcile(reading.job, observed, NOON)


def made_of(rayjob: Document) -> Iterator[tuple[str, Document]]:
    """The RayJob, and its pods' templates: a pod itself would need a service account."""
    yield RAY_JOBS, rayjob
    cluster = rayjob["spec"].get("rayClusterSpec", {})
    for group in (cluster.get("headGroupSpec"), *cluster.get("workerGroupSpecs", ())):
        if group:
            document = {
                "apiVersion": "v1",
                "kind": "PodTemplate",
                "metadata": {"name": "a"},
                "template": group["template"],
            }
            yield POD_TEMPLATES, document


def first_of_each_leaf(verdicts: list[Verdict], wanted: Callable[[Verdict], bool]) -> list[Mutation]:
    chosen: dict[str, Mutation] = {}
    for verdict in filter(wanted, verdicts):
        chosen.setdefault(verdict.mutation.leaf, verdict.mutation)
    return list(chosen.values())


@dataclass(frozen=True)
class Waiting:
    """A job that is suspended before its first attempt, so that all of it may still be changed."""

    namespace: Any
    name: str

    def put(self, spec: Document) -> Document:
        """Replace the spec, whatever the operator has written into the status in between."""
        return self.namespace.objects.patch_namespaced_custom_object(
            "m3.dev", "v1alpha1", self.namespace.name, "trainingjobs", self.name,
            [{"op": "replace", "path": "/spec", "value": spec}],
            field_validation="Strict", _content_type="application/json-patch+json",
        )  # fmt: skip


def suspended(spec: Document) -> Document:
    return spec | {"suspend": True}


@pytest.fixture
def waiting(namespace) -> Callable[[str], Waiting]:
    def make(base: str) -> Waiting:
        name = base.replace(" ", "-")
        namespace.create(name, **suspended(BASES[base]))
        return Waiting(namespace, name)

    return make


def test_a_refused_change_leaves_the_job_as_it_was(verdicts, waiting, namespace):
    jobs = {base: waiting(base) for base in BASES}
    refused = first_of_each_leaf(verdicts, lambda verdict: verdict.refusal is not None)
    assert len(refused) > 100
    for mutation in refused:
        with pytest.raises(client.ApiException) as refusal:
            jobs[mutation.base].put(mutation.document["spec"])
        assert KUBERNETES_WORDS.search(refusal.value.body), str(mutation)
    for base, made in jobs.items():
        assert namespace.job(made.name)["metadata"]["generation"] == 1, base


def test_an_accepted_change_can_be_taken_back(verdicts, waiting, namespace):
    jobs = {base: waiting(base) for base in BASES}
    before = {base: namespace.job(made.name)["spec"] for base, made in jobs.items()}
    accepted = first_of_each_leaf(verdicts, lambda verdict: verdict.refusal is None)
    assert len(accepted) > 80
    for mutation in accepted:
        jobs[mutation.base].put(suspended(mutation.document["spec"]))
        assert jobs[mutation.base].put(suspended(BASES[mutation.base]))["spec"] == before[mutation.base], str(mutation)


def test_the_operator_says_so_at_once_and_the_job_made_again_runs(verdicts, operator, namespace, wait_for):
    """What only Python can know: refused before anything is made, and the same name is good for the corrected file."""
    operator.wait_for_first_look()
    only_python = first_of_each_leaf(verdicts, lambda verdict: bool(verdict.faults) and verdict.refusal is None)
    assert only_python
    names = {f"job-{number}": mutation for number, mutation in enumerate(only_python)}
    for name, mutation in names.items():
        namespace.create(name, **mutation.document["spec"])
    for name, mutation in names.items():
        failed = namespace.wait_for_condition(name, "Failed")
        assert (failed["reason"], "must" in failed["message"]) == ("InvalidSpec", True), (str(mutation), failed)
    assert namespace.rayjobs() == []
    for name in names:
        namespace.delete(name)
        wait_for(lambda name=name: namespace.job(name) is None, 10)
        namespace.wait_for_rayjob(namespace.create(name, **WITH_A_CLAIM))


def test_a_job_that_was_changed_and_changed_back_while_it_waited_runs(verdicts, operator, waiting, namespace):
    operator.wait_for_first_look()
    accepted = first_of_each_leaf(verdicts, lambda verdict: not verdict.faults and verdict.refusal is None)
    made = waiting("in the cluster")
    for mutation in [mutation for mutation in accepted if mutation.base == "in the cluster"][::8]:
        made.put(suspended(mutation.document["spec"]))
    made.put(suspended(IN_THE_CLUSTER))
    namespace.wait_for_condition(made.name, "Suspended")
    assert namespace.rayjobs() == []
    namespace.patch(made.name, suspend=False)
    namespace.wait_for_rayjob(namespace.job(made.name))
