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


def test_the_exposition_names_everything():
    metrics = Metrics()
    metrics.depth = lambda: 3
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    assert b"m3_workqueue_depth 3.0" in body
    assert b"m3_last_reconcile_age_seconds" in body
