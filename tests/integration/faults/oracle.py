"""What one run came to, and whether it is what the undisturbed run came to.

The outcome is made of what is there at the end, of every create and delete since the beginning, and of the MLflow runs. What
differs between any two runs (uids, times, ids that MLflow gives) is put into words that do not. Events are no part of it: they
are sent after the status that they tell of, so one may be lost with its sender, and nobody decides anything by them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

from integration.faults.scene import JOB, Scene
from integration.faults.world import RAYJOBS, Change, Object

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z|\d\d:\d\d:\d\d UTC")
_RANDOM = re.compile(rf"\b{JOB}-[a-z0-9]{{5}}\b")
"""A name that the API server has made up, for the control. Ours have the job's uid and the attempt instead."""
_MLFLOW = re.compile(r"#/experiments/\d+/runs/[0-9a-f]{32}")


def outcome(scene: Scene, runs: Iterable[Object]) -> Object:
    """What `scene` has come to, in words that are the same in every run."""
    changes = sorted(scene.ledger.history)
    uids = {uid: f"uid{number}" for number, uid in enumerate(_uids(changes))}
    job = scene.job
    found = {
        "job": {"spec": job["spec"], "status": job.get("status")} if job else None,
        "finalizers": (job or {}).get("metadata", {}).get("finalizers"),
        "rayjobs": [_rayjob(body) for body in scene.ledger.of(RAYJOBS)],
        "history": [f"{change.verb} {change.kind} {change.name}" for change in changes],
        "runs": sorted(_run(run) for run in runs),
    }
    return _in_common_words(found, scene.namespace, uids)


def _uids(changes: list[Change]) -> list[str]:
    return list(dict.fromkeys(change.uid for change in changes))


def _rayjob(body: Object) -> Object:
    meta = body["metadata"]
    status = body.get("status") or {}
    return {
        "name": meta["name"],
        "uid": meta["uid"],
        "labels": meta.get("labels"),
        "owners": meta.get("ownerReferences"),
        "spec": body["spec"],
        "ended": [status.get("jobDeploymentStatus"), status.get("jobStatus")],
    }


def _run(run: Object) -> str:
    tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", ())}
    return f"{tags.get('m3.job.uid')} attempt {tags.get('m3.job.attempt')}: {run['info']['status']}"


def _in_common_words(found: Object, namespace: str, uids: dict[str, str]) -> Object:
    text = json.dumps(found, sort_keys=True)
    for uid, word in uids.items():
        text = text.replace(uid, word).replace(f"{JOB}-{uid[:4]}-", f"{JOB}-{word}-")
    text = _MLFLOW.sub("#/experiments/E/runs/R", _TIME.sub("TIME", text.replace(namespace, "NAMESPACE")))
    text = _RANDOM.sub(f"{JOB}-RANDOM", text)
    text = re.sub(r'"experimentId": "\d+"', '"experimentId": "E"', text)
    text = re.sub(r'"runId": "[0-9a-f]{32}"', '"runId": "R"', text)
    return json.loads(text)


def one_each(found: Object) -> list[str]:
    """What is there more than once of what there must be one: RayJobs, and MLflow runs, of an attempt."""
    made = [change for change in found["history"] if change.startswith(f"ADDED {RAYJOBS} ")]
    runs = [run.rsplit(": ", 1)[0] for run in found["runs"]]
    return sorted({f"twice: {item}" for items in (made, runs) for item in items if items.count(item) > 1})


def difference(found: Object, reference: Object) -> str:
    """The first lines in which the two differ; empty where they do not."""
    if found == reference:
        return ""
    old, new = (json.dumps(each, indent=1, sort_keys=True).splitlines() for each in (reference, found))
    lines = [
        line for line in difflib.unified_diff(old, new, n=0, lineterm="") if not line.startswith(("---", "+++", "@@"))
    ]
    return " | ".join(re.sub(r"\s+", " ", line) for line in lines[:12])


def went_astray(found: Object, reference: Object) -> bool:
    """Whether something was made or deleted that cannot be made good any more."""
    made, expected = found["history"], reference["history"]
    return made != expected[: len(made)]
