"""Alive means: the work queue has moved lately."""

from m3_operator.metrics import STALE_AFTER, Metrics


def test_it_dies_when_the_queue_stands_still_and_lives_again_when_it_moves():
    clock = [100.0]
    metrics = Metrics(lambda: clock[0])
    assert metrics.is_alive
    clock[0] += STALE_AFTER
    assert not metrics.is_alive
    metrics.beat()
    assert (metrics.is_alive, metrics.age()) == (True, 0.0)


class Queue:
    def __len__(self):
        return 3

    def oldest(self):
        return 1.5


def test_the_exposition_names_everything():
    metrics = Metrics()
    metrics.watch(Queue())
    metrics.show_jobs({"Running": 2, "Unschedulable": 1})
    metrics.show_jobs({"Running": 1})
    metrics.count("JobFailed")
    metrics.count("AttemptFailed")
    metrics.count("RayJobCreated")
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    lines = body.decode().splitlines()
    assert [line for line in lines if line.startswith("m3_jobs{")] == ['m3_jobs{condition="Running"} 1.0']
    expected = (
        "m3_workqueue_depth 3.0", "m3_workqueue_oldest_seconds 1.5", "m3_tracking_up 1.0", "m3_attempts_failed_total 1.0",
        'm3_jobs_finished_total{condition="Failed"} 1.0',
    )  # fmt: skip
    assert set(expected) <= set(lines)
    assert b"m3_last_reconcile_age_seconds" in body
