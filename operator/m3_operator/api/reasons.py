"""The words of the conditions: their types, and the reasons that programs may read. operator/README.md explains each."""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    SUSPENDED = "Suspended"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    REGISTERED = "Registered"
    PROMOTED = "Promoted"


class Reason(StrEnum):
    # Running
    RAY_JOB_CREATED = "RayJobCreated"
    """The RayJob is made; KubeRay has not taken it up yet."""
    CLUSTER_STARTING = "ClusterStarting"
    """Pods are scheduled, images are pulled, Ray starts."""
    JOB_STARTING = "JobStarting"
    """The cluster is ready; the job's process starts."""
    JOB_RUNNING = "JobRunning"
    """The job's code runs."""
    BACKING_OFF = "BackingOff"
    """An attempt has failed; the next one waits its turn."""
    WAITING_FOR_NAME = "WaitingForName"
    """A RayJob of a deleted TrainingJob still holds the name."""
    REQUEST_REFUSED = "RequestRefused"
    """Kubernetes refuses to make the RayJob, because of a quota for instance; it is asked again."""
    FINISHED = "Finished"
    """The job is complete, or has failed."""

    # Suspended
    JOB_SUSPENDED = "JobSuspended"
    """`spec.suspend` is true."""
    JOB_RESUMED = "JobResumed"
    """`spec.suspend` is false again."""

    # Complete
    SUCCEEDED = "Succeeded"
    """The newest attempt has succeeded."""

    # Failed, and why an attempt ended
    INVALID_SPEC = "InvalidSpec"
    """The file asks for what cannot be; nothing was made."""
    NAME_CONFLICT = "NameConflict"
    """Somebody else's RayJob has the name of ours."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """`activeDeadlineSeconds` are over."""
    PRE_RUNNING_DEADLINE_EXCEEDED = "PreRunningDeadlineExceeded"
    """`preRunningDeadlineSeconds` were over before the attempt ran."""
    RAY_JOB_DELETED = "RayJobDeleted"
    """Somebody has deleted the attempt's RayJob."""
    INVALID_RAY_JOB = "InvalidRayJob"
    """KubeRay refuses the RayJob."""
    STOPPED = "Stopped"
    """Somebody has stopped the Ray job."""
    SUSPENDED = "Suspended"
    """The attempt was stopped by `spec.suspend`; not a failure."""
    JOB_CRASHED = "JobCrashed"
    """The job's process ended without saying why: killed, or out of memory."""

    # Registered
    MODEL_REGISTERED = "ModelRegistered"
    """The job has registered a model version."""
    TRACKING_UNAVAILABLE = "TrackingUnavailable"
    """MLflow gives no answer; it is asked again."""
    RUN_NOT_FOUND = "RunNotFound"
    """MLflow has no run of this job."""
    NO_MODEL_VERSION = "NoModelVersion"
    """The run is there and names no model version."""
