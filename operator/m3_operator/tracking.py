"""The only module that talks to MLflow: three calls of its REST API. Importing mlflow itself would cost 118 MB."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import aiohttp

from m3_operator.errors import TrackingError
from m3_operator.mlflow_run import ATTEMPT, JOB_UID, OPERATOR, Run, parse

QUICK = 1.0
"""Seconds for a question that a condition waits for. No answer in that time is an answer: Unknown, asked again later."""
PATIENT = 8.0
"""Seconds for the tick's search."""
PAGE = 1000

Object = dict[str, Any]


class Tracking:
    """MLflow's tracking server. Every method raises TrackingError where it cannot be asked."""

    def __init__(self, tracking_uri: str, operator_id: str) -> None:
        self._base = f"{tracking_uri}/api/2.0/mlflow"
        self._operator_id = operator_id
        self._experiments: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def run(self, experiment: str, job_uid: str, attempt: int) -> Run | None:
        """The newest run of a job's attempt; None where the experiment has none."""
        wanted = f"tags.`{JOB_UID}` = '{job_uid}' AND tags.`{ATTEMPT}` = '{attempt}'"
        known = self._experiments.get(experiment)
        found = await self._search([known], wanted, QUICK, pages=1) if known else []
        if not found:
            # an experiment that was deleted and made again has another id
            self._experiments.pop(experiment, None)
            current = await self._experiment(experiment, QUICK)
            found = await self._search([current], wanted, QUICK, pages=1) if current and current != known else []
        return found[0] if found else None

    async def runs_since(self, experiments: Iterable[str], start: datetime) -> list[Run]:
        """Runs of this operator's jobs that started at `start` or later, newest first."""
        ids = [await self._experiment(name, PATIENT) for name in sorted(set(experiments))]
        # MLflow has no IN or OR over tags; and without experiments it finds nothing, and does not say so
        since = int(start.timestamp() * 1000)
        wanted = f"tags.`{OPERATOR}` = '{self._operator_id}' AND attributes.start_time >= {since}"
        return await self._search([id_ for id_ in ids if id_], wanted, PATIENT)

    async def _experiment(self, name: str, timeout: float) -> str | None:
        if name not in self._experiments:
            answer = await self._ask("GET", "experiments/get-by-name", timeout, params={"experiment_name": name})
            if answer is None:
                return None
            self._experiments[name] = str(answer["experiment"]["experiment_id"])
        return self._experiments[name]

    async def _search(self, experiments: list[str], wanted: str, timeout: float, pages: int = 100) -> list[Run]:
        query: Object = {
            "experiment_ids": experiments,
            "filter": wanted,
            "max_results": PAGE,
            "order_by": ["attributes.start_time DESC"],
        }
        found: list[Run] = []
        for _ in range(pages if experiments else 0):
            answer = await self._ask("POST", "runs/search", timeout, json=query) or {}
            found += [parse(run) for run in answer.get("runs", ())]
            if not answer.get("next_page_token"):
                break
            query["page_token"] = answer["next_page_token"]
        return found

    async def _ask(self, method: str, path: str, timeout: float, **content: Any) -> Object | None:
        """The answer; None where MLflow says that the thing does not exist."""
        if self._session is None:
            raise TrackingError("MLflow is not connected")
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._session.request(method, f"{self._base}/{path}", timeout=limit, **content) as response:
                text = await response.text()
                if response.status == 404 and "RESOURCE_DOES_NOT_EXIST" in text:
                    return None
                if response.status != 200:
                    raise TrackingError(f"MLflow answers {response.status} to {path}: {text[:200]}")
                return json.loads(text)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise TrackingError(f"MLflow gives no answer to {path}: {error or type(error).__name__}") from error
