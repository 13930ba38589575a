"""What happens to a job: scripts that wait for what the operator has to bring about, and go on as users and jobs do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from integration.faults.scene import JOB, Scene
from integration.faults.world import JOBS


@dataclass(frozen=True)
class Workload:
    """`script` returns when the job has come to its end; the operator may still have something to tidy up."""

    name: str
    script: Callable[[Scene], Awaitable[None]]


async def _to_running(scene: Scene, attempt: int = 1) -> None:
    await scene.expect(f"RayJob {attempt}", lambda: scene.rayjob(attempt))
    await scene.expect(f"Running {attempt}", lambda: scene.has("Running") and _number(scene) == attempt)
    await scene.calm()


async def _to_progress(scene: Scene) -> None:
    await scene.expect("progress", lambda: (scene.status.get("progress") or {}).get("percentage") == 60)
    await scene.calm()


def _number(scene: Scene) -> int:
    return max((attempt["number"] for attempt in scene.status.get("attempts", ())), default=0)


def _is_settled(scene: Scene) -> bool:
    """The status says so, and no RayJob is left that the operator would list again."""
    labels = [rayjob["metadata"].get("labels", {}) for rayjob in scene.rayjobs()]
    return scene.status.get("settled") is True and all(found.get("m3.dev/settled") == "true" for found in labels)


async def _to_complete(scene: Scene) -> None:
    await scene.succeed()
    await scene.expect("Complete", lambda: scene.has("Complete"))
    await scene.expect("Registered", lambda: scene.has("Registered"))
    await scene.expect("settled", lambda: _is_settled(scene))


async def create(scene: Scene) -> None:
    """Runs until a tick has told of its progress, then completes."""
    await scene.create()
    await _to_running(scene)
    await _to_progress(scene)
    await _to_complete(scene)


async def update(scene: Scene) -> None:
    """Two edits that matter while it runs: one more attempt, then no more time."""
    await scene.create(backoffLimit=0)
    await _to_running(scene)
    await scene.patch(backoffLimit=1)
    await scene.expect("observed", lambda: scene.status.get("observedGeneration") == 2)
    await scene.calm()
    await scene.crash()
    await _to_running(scene, 2)
    await _to_progress(scene)  # it stays in the status of a job that fails, so the end would depend on the moment
    await scene.patch(activeDeadlineSeconds=1)
    await scene.expect("Failed", lambda: scene.has("Failed", reason="DeadlineExceeded"))
    await scene.expect("RayJob deleted", lambda: scene.rayjob(2) is None)
    await scene.expect("settled", lambda: _is_settled(scene))


async def delete(scene: Scene) -> None:
    """Deleted while it runs. Its RayJob goes with it, by the garbage collector: the operator must not stand in its way."""
    await scene.create()
    await _to_running(scene)
    await scene.delete()
    await scene.expect("gone", lambda: scene.job is None and not scene.rayjobs())


async def retry(scene: Scene) -> None:
    """The first attempt crashes, the second one does it."""
    await scene.create(backoffLimit=2)
    await _to_running(scene)
    await scene.crash()
    await scene.expect("backing off", lambda: (scene.status.get("attempts") or [{}])[0].get("reason") == "JobCrashed")
    await _to_running(scene, 2)
    await _to_complete(scene)


async def suspend(scene: Scene) -> None:
    """Suspended while it runs, and resumed."""
    await scene.create()
    await _to_running(scene)
    await scene.patch(suspend=True)
    await scene.expect("Suspended", lambda: scene.has("Suspended"))
    await scene.expect("RayJob deleted", lambda: not scene.rayjobs())
    await scene.calm()
    await scene.patch(suspend=False)
    await _to_running(scene, 2)
    await _to_complete(scene)


async def ttl(scene: Scene) -> None:
    """Completes, and is deleted when its time is over."""
    await scene.create(ttlSecondsAfterFinished=2)
    await _to_running(scene)
    await scene.succeed()
    await scene.expect("gone", lambda: scene.ledger.get(JOBS, JOB) is None and not scene.rayjobs())


async def start(scene: Scene) -> None:
    """The operator's own start, of which a job comes out."""
    await scene.create()
    await _to_running(scene)
    await _to_complete(scene)


async def control(scene: Scene) -> None:
    """The shortest whole life, and nothing asked of it but its conditions: for the operator that tells no more."""
    await scene.create()
    await scene.expect("RayJob", lambda: scene.rayjobs())
    await scene.expect("Running", lambda: scene.has("Running"))
    await scene.calm()
    await scene.succeed()
    await scene.expect("Complete", lambda: scene.has("Complete"))


WORKLOADS = tuple(Workload(script.__name__, script) for script in (create, update, delete, retry, suspend, ttl))
START = Workload(start.__name__, start)
CONTROL = Workload(control.__name__, control)
