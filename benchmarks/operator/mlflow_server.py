"""A real MLflow server, as the operator has one in production; its access log tells what it was asked."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import unused_port
from process import Program


@dataclass
class Mlflow:
    uri: str
    log: Path
    _read: int = 0

    def skip_log(self) -> None:
        """Forget the requests until now."""
        self._read = self.log.stat().st_size

    def asked(self) -> list[str]:
        """Method and path of each request since the last skip_log()."""
        lines = self.log.read_bytes()[self._read :].decode().splitlines()
        quoted = (line.split('"')[1] for line in lines if '"' in line and " HTTP/1." in line)
        return [" ".join(request.split()[:2]).split("?")[0] for request in quoted]

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def running() -> Iterator[Mlflow]:
    with tempfile.TemporaryDirectory(prefix="m3-bench-mlflow-") as name:
        folder, port = Path(name), unused_port()
        command = [
            sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1",
            f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}", f"--artifacts-destination={folder / 'artifacts'}",
        ]  # fmt: skip
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        program = Program(command, environment, folder, "mlflow")
        try:
            program.wait_until(f"http://127.0.0.1:{port}/health", 120)
            yield Mlflow(f"http://127.0.0.1:{port}", program.log)
        finally:
            program.stop()
