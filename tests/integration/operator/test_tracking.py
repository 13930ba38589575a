"""MLflow's REST API as the operator uses it, against a real server; and what only a broken one answers."""

import asyncio
import uuid

import pytest
from aiohttp import web

from m3_operator.draft import AliasMove
from m3_operator.errors import TrackingError
from m3_operator.mlflow_run import NoRun, RegisteredModel, Run
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


async def test_one_search_finds_the_runs_of_all_jobs_that_are_running(tracking, mlflow, job):
    other = {"metadata": job["metadata"] | {"uid": str(uuid.uuid4())}, "spec": job["spec"]}
    ids = {mlflow.train(job), mlflow.train(other)}
    mlflow.finish(mlflow.train(job, attempt=2))
    found = await tracking.running([experiment(job), experiment(job), "not_there"])
    assert {run.run_id for run in found} == ids


async def test_runs_of_another_operator_are_not_ours(mlflow, job):
    mlflow.train(job)
    stranger = Tracking(mlflow.uri, "elsewhere/m3")
    await stranger.open()
    assert await stranger.running([experiment(job)]) == []
    await stranger.close()


async def test_more_runs_than_a_page(tracking, mlflow, job, monkeypatch):
    monkeypatch.setattr("m3_operator.tracking.PAGE", 2)
    ids = {mlflow.train(job, attempt=number) for number in range(1, 6)}
    found = await tracking.running([experiment(job)])
    assert {run.run_id for run in found} == ids


async def test_experiments_that_nobody_names_are_learned(mlflow, job, monkeypatch):
    monkeypatch.setattr("m3_operator.tracking.PAGE", 2)
    run = mlflow.train(job)
    tracking = Tracking(mlflow.uri, "m3-system/m3")
    await tracking.open()
    assert await tracking.running([]) == []
    await tracking.learn_experiments()
    assert run in {each.run_id for each in await tracking.running([])}
    await tracking.close()


async def test_a_run_is_ended_once(tracking, mlflow, job):
    run = mlflow.train(job)
    assert await tracking.end(run, "KILLED", 1) is True
    assert mlflow.run_status(run) == "KILLED"
    assert await tracking.end(run, "FAILED", 2) is False
    assert mlflow.run_status(run) == "KILLED"
    assert await tracking.end("0" * 32, "KILLED", 1) is False


class TestAliases:
    async def test_a_model_is_known_by_its_owner_and_aliases(self, tracking, mlflow, job):
        name = experiment(job)
        assert await tracking.model(name) is NoRun.NOT_FOUND
        version = mlflow.new_version(name, namespace="shop")
        mlflow.set_alias(name, "champion", version)
        assert await tracking.model(name) == RegisteredModel("shop", {"champion": version})

    async def test_an_alias_moves_only_from_where_it_was(self, tracking, mlflow, job):
        name = experiment(job)
        first, second = mlflow.new_version(name), mlflow.new_version(name)
        assert await tracking.move(AliasMove(name, "champion", first, None)) is True
        assert await tracking.move(AliasMove(name, "champion", second, None)) is False
        assert mlflow.aliases(name) == {"champion": first}
        assert await tracking.move(AliasMove(name, "champion", second, first)) is True
        assert mlflow.aliases(name) == {"champion": second}

    async def test_of_two_that_come_together_one_wins(self, tracking, mlflow, job):
        name = experiment(job)
        first, second = mlflow.new_version(name), mlflow.new_version(name)
        moves = [AliasMove(name, "champion", version, None) for version in (first, second)]
        assert sorted(await asyncio.gather(*(tracking.move(move) for move in moves))) == [False, True]


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
