"""The only module that talks to MLflow: a few calls of its REST API. Importing mlflow itself would cost 118 MB."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import aiohttp

from m3_operator.draft import AliasMove
from m3_operator.errors import TrackingError
from m3_operator.mlflow_run import ATTEMPT, JOB_UID, OPERATOR, NoRun, RegisteredModel, Run, parse, parse_model

QUICK = 1.0
"""Seconds for a question that a condition waits for. No answer in that time is an answer: Unknown, asked again later."""
PATIENT = 8.0
"""Seconds for the tick's search."""
PAGE = 1000
MAX_TAG = 5000

Object = dict[str, Any]


class Tracking:
    """MLflow's tracking server. Every method raises TrackingError where it cannot be asked."""

    def __init__(self, tracking_uri: str, operator_id: str) -> None:
        self._base = f"{tracking_uri}/api/2.0/mlflow"
        self._operator_id = operator_id
        self._experiments: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None
        self._moving = asyncio.Lock()

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

    async def learn_experiments(self) -> None:
        """Find the experiments that are there: runs of jobs that were deleted while nobody looked may be in any of them."""
        query: Object = {"max_results": PAGE}
        while True:
            answer = await self._ask("POST", "experiments/search", PATIENT, json=query) or {}
            self._experiments |= {each["name"]: str(each["experiment_id"]) for each in answer.get("experiments", ())}
            if not answer.get("next_page_token"):
                return
            query["page_token"] = answer["next_page_token"]

    async def running(self, experiments: Iterable[str]) -> list[Run]:
        """Runs of this operator's jobs that MLflow calls RUNNING, newest first, in these experiments and all that are known."""
        for name in sorted(set(experiments)):
            await self._experiment(name, PATIENT)
        # MLflow has no IN or OR over tags; and without experiments it finds nothing, and does not say so
        wanted = f"tags.`{OPERATOR}` = '{self._operator_id}' AND attributes.status = 'RUNNING'"
        return await self._search(sorted(set(self._experiments.values())), wanted, PATIENT)

    async def end(self, run_id: str, status: str, at_millisecond: int) -> bool:
        """End a run as `status`; False where it has ended by itself meanwhile, or is gone."""
        answer = await self._ask("GET", "runs/get", PATIENT, params={"run_id": run_id})
        if answer is None or answer["run"]["info"].get("status") != "RUNNING":
            return False
        update = {"run_id": run_id, "status": status, "end_time": at_millisecond}
        return await self._ask("POST", "runs/update", PATIENT, json=update) is not None

    # the registry
    async def model(self, name: str) -> RegisteredModel | NoRun:
        answer = await self._ask("GET", "registered-models/get", QUICK, params={"name": name})
        return parse_model(answer["registered_model"]) if answer else NoRun.NOT_FOUND

    async def move(self, move: AliasMove) -> bool:
        """Let an alias point at another version; False where somebody has moved it meanwhile. MLflow has no compare-and-set,
        so two moves must not overlap: this operator is the only one that makes any, and makes one at a time.
        """
        async with self._moving:
            model = await self.model(move.model)
            if not isinstance(model, RegisteredModel) or model.aliases.get(move.alias) != move.holder:
                return False
            body = {"name": move.model, "alias": move.alias, "version": move.version}
            return await self._ask("POST", "registered-models/alias", QUICK, json=body) is not None

    async def tag_version(self, name: str, version: str, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            body = {"name": name, "version": version, "key": key, "value": value[:MAX_TAG]}
            await self._ask("POST", "model-versions/set-tag", QUICK, json=body)

    # asking
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
