"""MLflow's REST API as the operator uses it, against a real server; and what only a broken one answers."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from m3_operator.errors import TrackingError
from m3_operator.mlflow_run import Run
from m3_operator.tracking import Tracking


@pytest.fixture
async def tracking(mlflow):
    tracking = Tracking(mlflow.uri, "m3-system/m3")
    await tracking.open()
    yield tracking
    await tracking.close()


@pytest.fixture
def job():
    """A job that nobody else writes a run of, in an experiment of its own."""
    uid = str(uuid.uuid4())
    return {
        "metadata": {"name": "fraud-rf", "namespace": "shop", "uid": uid},
        "spec": {"tracking": {"experimentName": f"experiment-{uid}"}, "registry": {"modelName": "fraud_detector"}},
    }


def experiment(job):
    return job["spec"]["tracking"]["experimentName"]


async def test_a_run_is_found_by_job_and_attempt(tracking, mlflow, job):
    mlflow.train(job, attempt=1, average_precision=0.5)
    second = mlflow.train(job, attempt=2, average_precision=0.6)
    mlflow.finish(second)
    run = await tracking.run(experiment(job), job["metadata"]["uid"], 2)
    assert isinstance(run, Run)
    assert (run.run_id, run.status, run.metrics) == (second, "FINISHED", {"average_precision": 0.6})
    assert (run.model_name, run.model_version, run.rows) == ("fraud_detector", "3", 1000)


async def test_no_run_and_no_experiment_are_none(tracking, mlflow, job):
    assert await tracking.run(experiment(job), job["metadata"]["uid"], 1) is None
    mlflow.train(job, attempt=1)
    assert await tracking.run(experiment(job), job["metadata"]["uid"], 7) is None


async def test_one_search_finds_the_runs_of_all_jobs(tracking, mlflow, job):
    before = datetime.now(UTC) - timedelta(seconds=5)
    other = {"metadata": job["metadata"] | {"uid": str(uuid.uuid4())}, "spec": job["spec"]}
    ids = {mlflow.train(job), mlflow.train(other)}
    found = await tracking.runs_since([experiment(job), experiment(job), "not_there"], before)
    assert {run.run_id for run in found} == ids
    assert await tracking.runs_since([experiment(job)], before + timedelta(hours=1)) == []


async def test_runs_of_another_operator_are_not_ours(mlflow, job):
    mlflow.train(job)
    stranger = Tracking(mlflow.uri, "elsewhere/m3")
    await stranger.open()
    assert await stranger.runs_since([experiment(job)], datetime.now(UTC) - timedelta(minutes=5)) == []
    await stranger.close()


async def test_more_runs_than_a_page(tracking, mlflow, job, monkeypatch):
    monkeypatch.setattr("m3_operator.tracking.PAGE", 2)
    ids = {mlflow.train(job, attempt=number) for number in range(1, 6)}
    found = await tracking.runs_since([experiment(job)], datetime.now(UTC) - timedelta(minutes=5))
    assert {run.run_id for run in found} == ids


async def test_a_frozen_server_is_given_up_in_time(tracking, mlflow, job):
    mlflow.freeze()
    try:
        with pytest.raises(TrackingError, match="MLflow gives no answer"):
            await tracking.run(experiment(job), "uid", 1)
    finally:
        mlflow.thaw()


@pytest.mark.parametrize(
    ("status", "text"),
    [(404, "<html>no such page</html>"), (403, "Invalid Host header"), (200, "<html>please log in</html>"), (500, "")],
)
async def test_an_answer_that_is_not_mlflows_is_no_answer(status, text, unused_tcp_port):
    async def answer(_):
        return web.Response(status=status, text=text)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    tracking = Tracking(f"http://127.0.0.1:{unused_tcp_port}", "m3")
    await tracking.open()
    with pytest.raises(TrackingError):
        await tracking.run("fraud_detection", "uid", 1)
    await tracking.close()
    await runner.cleanup()


async def test_before_it_is_open_it_says_so():
    with pytest.raises(TrackingError, match="not connected"):
        await Tracking("http://127.0.0.1:9", "m3").run("fraud_detection", "uid", 1)
