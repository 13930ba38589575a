"""What can go wrong, as seen from the operator.

    OperatorError
    ├── SettingsError            the environment says what the operator cannot use; it does not start
    ├── ClusterError             Kubernetes
    │   ├── ClusterUnavailable   no answer, or one that asks to come again: tried again
    │   ├── Conflict             somebody else was faster: the state is read anew, and decided anew
    │   └── Refused              the request itself is at fault: the job's condition says so
    └── TrackingError            MLflow gives no answer, or not one: conditions are Unknown, and nothing waits for it

A fault in a user's file is no exception here: it is a condition (`Failed`, reason `InvalidSpec`).
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all."""


class SettingsError(OperatorError):
    """A setting has a value that the operator cannot use."""


class ClusterError(OperatorError):
    """The Kubernetes API did not do what was asked."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status of the answer; 0 where there was none."""


class ClusterUnavailable(ClusterError):
    """No answer, or 429 or 5xx."""


class Conflict(ClusterError):
    """409: the object is there already, or is newer than what the request was made from."""


class Refused(ClusterError):
    """Another 4xx: the same request will be refused again."""


class TrackingError(OperatorError):
    """MLflow could not be asked."""
