"""What the API server's refusals become; the texts are a kube-apiserver 1.34's."""

import json

import pytest

from m3_trainer import kube
from m3_trainer.errors import InvalidSpec


def body(message: str, causes: list | None = None, **details: str) -> str:
    return json.dumps({"kind": "Status", "message": message, "details": details | {"causes": causes or []}})


@pytest.mark.parametrize(
    ("status", "text", "error", "told"),
    [
        (
            403,
            body(
                'trainingjobs.m3.dev is forbidden: User "ann" cannot list resource "trainingjobs" in API group "m3.dev"'
                " at the cluster scope"
            ),
            kube.ClusterRefused,
            "user `ann` must have the right to list trainingjobs.m3.dev in the whole cluster: "
            "ask the cluster's administrator for it",
        ),
        (403, body("exceeded quota: jobs"), kube.ClusterRefused, "the API server refuses: exceeded quota: jobs"),
        (
            404,
            "404 page not found\n",
            kube.NotInstalled,
            f"the cluster must have M3 installed, and knows no TrainingJob: {kube.INSTALL}",
        ),
        (404, body('pods "a" not found', name="a"), kube.NotFound, 'pods "a" not found'),
        (
            400,
            body('strict decoding error: unknown field "spec.modle", unknown field "spec.dta"'),
            InvalidSpec,
            "spec.modle: must be a known field\nspec.dta: must be a known field",
        ),
        (
            500,
            body(
                "failed to create typed patch object (d/a; m3.dev/v1alpha1, Kind=TrainingJob): "
                ".spec.ray.hed: field not declared in schema"
            ),
            InvalidSpec,
            "spec.ray.hed: must be a known field",
        ),
        (
            422,
            body(
                "is invalid",
                [
                    {
                        "field": "spec.data.uri",
                        "message": 'Invalid value: "": spec.data.uri in body should be at least 1 chars long',
                    }
                ],
            ),
            InvalidSpec,
            'spec.data.uri: must be at least 1 chars long, is ""',
        ),
        (
            422,
            body("is invalid", [{"field": "<nil>", "message": 'Invalid value: "object": `a` must be b'}]),
            InvalidSpec,
            "`a` must be b",
        ),
        (
            422,
            body("is invalid", [{"field": "spec.data", "message": "Required value"}]),
            InvalidSpec,
            "spec.data: must be set",
        ),
        (
            422,
            body(
                "is invalid",
                [{"field": "spec.model.type", "message": 'Unsupported value: "a": supported values: "b", "c"'}],
            ),
            InvalidSpec,
            'spec.model.type: must be one of "b", "c", is "a"',
        ),
        (
            500,
            body("etcdserver: request timed out"),
            kube.ClusterUnavailable,
            "the API server must answer; it said 500: etcdserver: request timed out",
        ),
        (429, "", kube.ClusterUnavailable, "the API server must answer; it said 429: status 429"),
        (405, body("not here"), kube.ClusterRefused, "the API server refuses: not here"),
    ],
)
def test_a_refusal_is_a_sentence_of_what_must_be_true(status, text, error, told):
    found = kube.refusal(status, text)
    assert (type(found), str(found)) == (error, told)
