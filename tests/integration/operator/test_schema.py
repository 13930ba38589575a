"""The CRD on a real API server: what it accepts, what it refuses and in which words, and what it tells about itself."""

import json
from pathlib import Path

import pytest
import yaml
from kubernetes import client
from pydantic import ValidationError

from m3_operator.api.v1alpha1 import TrainingJob
from m3_trainer.files import Loader
from m3_trainer.schema import explain

ROOT = Path(__file__).parents[3]
INVALID = sorted((ROOT / "tests" / "invalid").glob("*.yaml"))
SAMPLES = [
    pytest.param(document, id=path.stem)
    for path in sorted((ROOT / "manifests" / "samples").rglob("*.yaml"))
    for document in yaml.load_all(path.read_text(), Loader)
    if document["kind"] == "TrainingJob"
]


def header(path):
    """The `# name: text` lines on top of a file of the corpus."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    return dict(line.removeprefix("# ").split(": ", 1) for line in lines)


@pytest.fixture(scope="module")
def refusal(api_server):
    """What the API server says against a document, as kubectl would ask it; None where it accepts it."""
    with api_server.api() as api:
        objects = client.CustomObjectsApi(api)

        def ask(document):
            try:
                objects.create_namespaced_custom_object(
                    "m3.dev", "v1alpha1", "default", "trainingjobs", document, dry_run="All", field_validation="Strict"
                )
            except client.ApiException as error:
                return yaml.safe_load(error.body)["message"]
            return None

        yield ask


def faults(document):
    try:
        TrainingJob.parse(document)
    except ValidationError as error:
        return "\n".join(explain(error, TrainingJob))
    return None


def test_the_corpus_is_large():
    assert len(INVALID) >= 250
    assert SAMPLES


@pytest.mark.parametrize("document", SAMPLES)
def test_both_accept_the_samples(refusal, document):
    assert (refusal(document), faults(document)) == (None, None)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_by_whom_it_says(refusal, path):
    says, document = header(path), yaml.load(path.read_text(), Loader)
    assert says["message"] in (faults(document) or "accepted")
    answer = refusal(document)
    if says["refused-by"] == "python":
        assert answer is None
    else:
        assert says.get("api", says["message"]) in (answer or "accepted")


def test_defaults_are_stored_and_the_same_for_both(api_server):
    spec = {"data": {"uri": "a.csv", "target": "y"}, "ray": {"head": {}, "workers": {}}}
    document = {
        "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "a", "namespace": "default"},
        "spec": spec,
    }  # fmt: skip
    with api_server.api() as api:
        stored = client.CustomObjectsApi(api).create_namespaced_custom_object(
            "m3.dev", "v1alpha1", "default", "trainingjobs", document, dry_run="All"
        )
    assert stored["spec"] == TrainingJob.parse(document).spec.dump()


SCALARS = """1.0 1e3 1e-3 1E5 .5 5. +1 -0.0 0x1F 0o17 017 0b11 1_000 1_000.5 1:30 12:30:45 y Y n N yes No on Off true ~ null
2018-07-25 2018-07-25T10:00:00Z 0777 09 1e5.5 '' 1. -.5 +.5 .e1 0o8 0xg _1 1_ 1.0e+3 1.5e3 TRUE False NULL yEs = a:b x"""


def test_m3_reads_yaml_as_kubectl_does(api_server):
    """YAML has many dialects; a file must not mean one thing on a laptop and another in a cluster."""
    text = f"""
        apiVersion: m3.dev/v1alpha1
        kind: TrainingJob
        metadata: {{name: a}}
        spec:
          data: {{uri: rows.csv, target: label}}
          model: {{type: "a:B", hyperparameters: {{p: [{", ".join(SCALARS.split())}]}}}}
    """
    theirs = json.loads(api_server.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", text=text).stdout)
    ours = TrainingJob.parse(yaml.load(text, Loader)).dump()
    read = [body["spec"]["model"]["hyperparameters"]["p"] for body in (theirs, ours)]
    pairs = zip(SCALARS.split(), *read, strict=True)
    assert [(word, their, our) for word, their, our in pairs if repr(their) != repr(our)] == []


def test_a_null_hyperparameter_is_kept(api_server):
    document = {
        "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "a"},
        "spec": {"data": {"uri": "a.csv", "target": "y"}, "model": {"hyperparameters": {"max_depth": None}}},
    }  # fmt: skip
    with api_server.api() as api:
        stored = client.CustomObjectsApi(api).create_namespaced_custom_object(
            "m3.dev", "v1alpha1", "default", "trainingjobs", document, dry_run="All"
        )
    assert stored["spec"]["model"]["hyperparameters"] == {"max_depth": None}


def undescribed(schema, path):
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        if not child.get("description") and here != "TrainingJob.metadata":
            yield here
        yield from undescribed(child, here)
        yield from undescribed(child.get("items") or {}, here)


def test_every_field_is_described_and_bounded(api_server):
    crd = yaml.safe_load(api_server.kubectl("get", "crd", "trainingjobs.m3.dev", "-o", "yaml").stdout)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert list(undescribed(schema, "TrainingJob")) == []
    assert list(unbounded(schema["properties"]["spec"], "spec")) == []


def unbounded(schema, path):
    """Paths of texts, lists and maps that may be of any length, and numbers that may be of any size."""
    kind = schema.get("type")
    bounded = {
        "string": {"maxLength", "enum", "format"} & schema.keys(),
        "array": "maxItems" in schema,
        "integer": {"minimum", "maximum"} <= schema.keys(),
        "number": {"minimum", "maximum"} <= schema.keys(),
        "object": "properties" in schema or "maxProperties" in schema,
    }
    if not bounded.get(kind, True):
        yield path
    for name, child in schema.get("properties", {}).items():
        yield from unbounded(child, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from unbounded(schema[inner], f"{path}[]")


def test_kubectl_explains_the_fields(api_server):
    wait = api_server.kubectl("explain", "trainingjob", "--recursive").stdout
    assert "hyperparameters" in wait
    text = api_server.kubectl("explain", "tj.spec.ray.workers.replicas").stdout
    assert "Number of worker pods." in text
