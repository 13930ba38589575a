"""The chart's Role is what the operator needs, no more and no less, by the API server's own account of what it was asked.

Run as the last of all, and only where every other test of this folder runs: see conftest.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest


class Right(NamedTuple):
    group: str
    resource: str
    verb: str


def decision(request):
    return request["annotations"]["authorization.k8s.io/decision"]


def right(request):
    """What had to be granted for it; without a resource where a path such as /apis was asked for."""
    target = request.get("objectRef", {})
    resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
    return Right(target.get("apiGroup", ""), resource, request["verb"])


def by_the_chart(request):
    return request["annotations"]["authorization.k8s.io/reason"].startswith("RBAC: allowed by RoleBinding")


def rights(rules) -> Iterator[Right]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield from (Right(group, resource, verb) for verb in rule["verbs"])


@pytest.fixture(scope="module")
def granted(api_server):
    (role,) = (each for each in api_server.chart_roles("anywhere") if each["kind"] == "Role")
    return set(rights(role["rules"]))


def test_every_right_was_of_use(api_server, granted):
    """A right is of use where a request that needed it has succeeded."""
    used = {
        right(request)
        for request in api_server.operators_requests()
        if by_the_chart(request) and request["responseStatus"]["code"] < 400
    }
    assert granted - used == set(), "never used: take them out of m3.rules, or test what needs them"
    assert used - granted == set(), "used, and by no rule of the chart"


def test_nothing_was_asked_for_that_is_forbidden(api_server):
    forbidden = {
        (right(each), each["requestURI"]) for each in api_server.operators_requests() if decision(each) == "forbid"
    }
    assert forbidden == set()
