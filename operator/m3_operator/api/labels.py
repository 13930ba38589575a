"""Labels that the operator puts on what it makes."""

from __future__ import annotations

JOB = "m3.dev/job"
JOB_UID = "m3.dev/job-uid"
ATTEMPT = "m3.dev/attempt"
SETTLED = "m3.dev/settled"
"""Set to `true` on the RayJob of an attempt that has ended: neither watched nor listed any more."""

QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's label: set on a TrainingJob, its RayJobs wait for quota in that queue."""

UNSETTLED = f"{JOB_UID},{SETTLED}!=true"
"""Label selector of the RayJobs that can still change."""
