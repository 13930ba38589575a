"""kubectl, its watches and what they see.

Nothing here waits by sleeping: kubectl watches, and every event is kept with the moment at which it came.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

JOBS, SYSTEM = "default", "m3-system"
"""Namespace of the jobs, and of the operator and MLflow."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """An event of a watch, and when it came (seconds of the monotonic clock)."""

    at: float
    type: str
    object: Object


class Watch:
    """What the API server says about some objects, from the moment that the watch stands."""

    def __init__(self, kubectl: list[str], environment: dict[str, str]):
        self.seen: list[Seen] = []
        self._news = threading.Condition()
        self._stands = threading.Event()
        # Verbose: the line about the open connection is the only sign that from now on nothing is missed.
        command = [*kubectl, "--watch", "--output-watch-events", "--output=json", "--v=6"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for read in (self._read_events, self._read_log):
            threading.Thread(target=read, daemon=True).start()
        assert self._stands.wait(30), f"no watch after 30 s: {' '.join(command)}"

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if b"watch=true" in line and b"200 OK" in line:
                self._stands.set()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        decode, parse, text = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder().raw_decode, ""
        for chunk in iter(lambda: os.read(self._process.stdout.fileno(), 1 << 20), b""):  # type: ignore[union-attr]
            at = time.monotonic()
            text = (text + decode.decode(chunk)).lstrip()
            while text:
                try:
                    event, end = parse(text)
                except json.JSONDecodeError:
                    break  # the rest of it is still to come
                text = text[end:].lstrip()
                with self._news:
                    self.seen.append(Seen(at, event["type"], event["object"]))
                    self._news.notify_all()

    def first(self, predicate: Callable[[Seen], bool], timeout: float) -> Seen:
        """The first event that fits, which may have come already; fails after `timeout` seconds."""

        def found() -> Seen | None:
            return next((each for each in self.seen if predicate(each)), None)

        with self._news:
            event = self._news.wait_for(found, timeout)
        if event is None:
            last = self.seen[-1].object.get("status") if self.seen else "nothing"
            pytest.fail(f"no such event within {timeout:g} s; last seen: {json.dumps(last, indent=1)}")
        return event

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)


@dataclass(frozen=True)
class Cluster:
    environment: dict[str, str] = field(repr=False)

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", *arguments],
            input=text,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done

    def get(self, *arguments: str) -> Object:
        return json.loads(self.kubectl("get", *arguments, "--output=json").stdout)

    def apply(self, document: Object, namespace: str = JOBS) -> None:
        """Apply, and have the API server say nothing about it: a warning is a fault of what we tell users to write."""
        done = self.kubectl("apply", f"--namespace={namespace}", "--filename=-", text=yaml.safe_dump(document))
        assert done.stderr == ""

    def job(self, name: str) -> Job:
        return Job(self.get("trainingjob", name, f"--namespace={JOBS}"))

    @contextmanager
    def watch(self, resource: str, *arguments: str, namespace: str = JOBS) -> Iterator[Watch]:
        watch = Watch(["kubectl", "get", resource, f"--namespace={namespace}", *arguments], self.environment)
        try:
            yield watch
        finally:
            watch.close()

    @contextmanager
    def forward(self, namespace: str, service: str, port: int) -> Iterator[int]:
        """A port of this machine that leads to a Service."""
        command = ["kubectl", f"--namespace={namespace}", "port-forward", f"service/{service}", f":{port}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found, f"{' '.join(command)} said {line!r}"
            yield int(found[1])
        finally:
            process.terminate()
            process.wait(timeout=10)

    def delete_job(self, name: str) -> None:
        """Delete a TrainingJob, and come back when its pods have given back what they held."""
        self.kubectl("delete", "trainingjob", name, f"--namespace={JOBS}", "--ignore-not-found")
        self.kubectl(
            *("wait", "--for=delete", "pods", f"--selector=m3.dev/job={name}", f"--namespace={JOBS}", "--timeout=120s")
        )


@dataclass(frozen=True)
class Job:
    """A TrainingJob as the API server gives it."""

    object: Object = field(repr=False)

    @property
    def name(self) -> str:
        return self.object["metadata"]["name"]

    @property
    def uid(self) -> str:
        return self.object["metadata"]["uid"]

    @property
    def status(self) -> Object:
        return self.object.get("status", {})

    def condition(self, kind: str) -> Object:
        """The condition of that type, or one that is Unknown for want of any."""
        unknown = {"status": "Unknown", "reason": "", "message": ""}
        return next((each for each in self.status.get("conditions", []) if each["type"] == kind), unknown)

    def has(self, kind: str) -> bool:
        return self.condition(kind)["status"] == "True"

    @property
    def is_finished(self) -> bool:
        return self.has("Complete") or self.has("Failed")
