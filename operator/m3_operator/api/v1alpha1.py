"""m3.dev/v1alpha1: TrainingJob. The workload is `m3_trainer.config`; here is where and how it runs, and its status."""

from __future__ import annotations

import re
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from m3_operator.api.meta import Condition, ObjectMeta
from m3_operator.api.schema import (
    DNS_LABEL,
    QUALIFIED_NAME,
    LabelKey,
    LabelValue,
    Message,
    ObjectName,
    Quantity,
    Seconds,
    StatusModel,
    Text,
    amount,
    immutable,
)
from m3_trainer.config import CONTROL, MAX_JOB_NAME, Workload
from m3_trainer.schema import Model, Must, Rule, exactly_one_of

GROUP = "m3.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
Path = Annotated[
    str,
    Field(min_length=2, max_length=1024),
    Must(
        f"^(/[^/:{CONTROL}]+)+$",
        "must be an absolute path in the container, as /data/today, without `:`, `//` and a `/` at its end",
    ),
]
_PART = r"[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*"
ImageName = Annotated[
    str,
    Field(min_length=1, max_length=512),
    Must(
        rf"^([A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]+)?/)?{_PART}(/{_PART})*(:[A-Za-z0-9_][-A-Za-z0-9_.]{{0,127}})?"
        r"(@sha256:[0-9a-f]{64})?$",
        "must be the name of an image, as registry.example/team/m3-trainer:1.2: lower-case, no spaces, no https://",
    ),
]
ResourceName = Annotated[
    str,
    Field(min_length=1, max_length=317),
    Must(
        r"^(cpu|memory|ephemeral-storage|([a-z0-9]([-a-z0-9]*[a-z0-9])?[.])*[a-z0-9]([-a-z0-9]*[a-z0-9])?"
        r"/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)$",
        "must be cpu, memory, ephemeral-storage, or a device with its domain, as nvidia.com/gpu",
    ),
]
ResourceList = Annotated[dict[ResourceName, Quantity], Field(max_length=16)]


class LocalObjectReference(Model):
    name: ObjectName
    """Name of an object in the job's namespace."""


class KeySelector(Model):
    name: ObjectName
    """Name of the Secret or ConfigMap, in the job's namespace."""
    key: Annotated[
        str,
        Field(min_length=1, max_length=253),
        Must(
            "^([-_a-zA-Z0-9]|[.][-_a-zA-Z0-9])[-._a-zA-Z0-9]*$",
            "must be a key of a Secret or ConfigMap: letters, digits, `-`, `_` and `.`",
        ),
    ]
    """Key in it."""
    optional: bool = False
    """Start the pod even where the object or the key is not there."""


class FieldSelector(Model):
    field_path: Annotated[
        str,
        Field(min_length=1, max_length=512),
        Must(
            rf"^(metadata[.](name|namespace|uid|(labels|annotations)\['{QUALIFIED_NAME}'\])"
            r"|spec[.](nodeName|serviceAccountName)|status[.](hostIP|hostIPs|podIP|podIPs))$",
            "must be a field of the pod: metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], "
            "metadata.annotations['KEY'], spec.nodeName, spec.serviceAccountName, status.hostIP or status.podIP",
        ),
    ]
    """Field of the pod, as `metadata.name`."""


class EnvVarSource(Model):
    rules = (exactly_one_of("secret_key_ref", "config_map_key_ref", "field_ref"),)

    secret_key_ref: KeySelector | None = None
    """A key of a Secret."""
    config_map_key_ref: KeySelector | None = None
    """A key of a ConfigMap."""
    field_ref: FieldSelector | None = None
    """A field of the pod."""


TAKEN_VARIABLES = (
    "MLFLOW_TRACKING_URI", "PYTHONUNBUFFERED", "RAY_ADDRESS", "RAY_IP", "RAY_PORT", "FQ_RAY_IP", "RAY_CLUSTER_NAME",
    "RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "KUBERAY_GEN_RAY_START_CMD",
)  # fmt: skip


class EnvVar(Model):
    rules = (
        exactly_one_of("value", "value_from"),
        Rule(
            cel="!self.name.startsWith('M3_')",
            message="`name` must not start with M3_: the operator sets those variables",
            check=lambda env: not env.name.startswith("M3_"),
        ),
        Rule(
            cel=f"!(self.name in {list(TAKEN_VARIABLES)})",
            message=f"`name` must not be one of {', '.join(TAKEN_VARIABLES)}: the operator and KubeRay set those",
            check=lambda env: env.name not in TAKEN_VARIABLES,
        ),
    )

    name: Annotated[
        str,
        Field(min_length=1, max_length=253),
        Must(r"^[A-Za-z_][A-Za-z0-9_]*$", "must be the name of a variable: letters, digits and `_`, no digit first"),
    ]
    """Name of the environment variable."""
    value: Annotated[str, Field(max_length=4096), Must(r"^[^\x00]*$", "must have no zero byte")] | None = None
    """Its value; secrets belong into `valueFrom`."""
    value_from: EnvVarSource | None = None
    """Where its value comes from."""


class PersistentVolumeClaimSource(Model):
    claim_name: ObjectName
    """Name of a PersistentVolumeClaim in the job's namespace."""


class EmptyDirSource(Model):
    medium: Literal["", "Memory"] = ""
    """Memory: a file system in memory, counted as the container's; empty: on the node's disk."""
    size_limit: Quantity | None = None
    """Largest size."""


class ConfigMapSource(Model):
    name: ObjectName
    """Name of a ConfigMap in the job's namespace."""


class SecretSource(Model):
    secret_name: ObjectName
    """Name of a Secret in the job's namespace."""


TAKEN_PATHS = ("/tmp", "/dev/shm")  # noqa: S108 paths in the container, where the operator mounts volumes of its own
STORAGE_PATH = "/storage"
OPERATOR_PATHS = (*TAKEN_PATHS, STORAGE_PATH)
VOLUME_SOURCES = ("persistent_volume_claim", "empty_dir", "config_map", "secret")


class Volume(Model):
    """A volume and where it is mounted. There is no hostPath: it would give a job its node's files."""

    rules = (
        exactly_one_of(*VOLUME_SOURCES),
        Rule(
            cel="!self.name.startsWith('m3-')",
            message="`name` must not start with m3-: the operator mounts volumes of that name",
            check=lambda volume: not volume.name.startswith("m3-"),
        ),
        Rule(
            cel=f"!(self.mountPath in {list(OPERATOR_PATHS)})",
            message=f"`mountPath` must not be {', '.join(TAKEN_PATHS)} or {STORAGE_PATH}: the operator mounts those",
            check=lambda volume: volume.mount_path not in OPERATOR_PATHS,
        ),
        Rule(
            cel="!has(self.subPath) || !self.subPath.split('/').exists(part, part == '..')",
            message="`subPath` must stay inside the volume: no `..`",
            check=lambda volume: volume.sub_path is None or ".." not in volume.sub_path.split("/"),
        ),
        Rule(
            cel="!self.mountPath.split('/').exists(part, part in ['.', '..'])",
            message="`mountPath` must be the path itself: no `.` and no `..` in it",
            check=lambda volume: not {".", ".."} & set(volume.mount_path.split("/")),
        ),
    )

    name: Annotated[
        str,
        Field(min_length=1, max_length=63),
        Must(DNS_LABEL, "must be lower-case letters, digits and `-`, the first and the last no `-`"),
    ]
    """Name of the volume in the pod."""
    mount_path: Path
    """Where it is mounted in the container, as `/data`."""
    sub_path: (
        Annotated[
            str,
            Field(min_length=1, max_length=1024),
            Must(
                f"^[^/:{CONTROL}][^:{CONTROL}]*$",
                "must be a path inside the volume, as models/today: no `/` first, no `:`",
            ),
        ]
        | None
    ) = None
    """Path inside the volume to mount, by default its root."""
    read_only: bool = False
    """Mount it read-only."""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A claim of the job's namespace."""
    empty_dir: EmptyDirSource | None = None
    """An empty directory that lives as long as the pod."""
    config_map: ConfigMapSource | None = None
    """A ConfigMap, one file per key."""
    secret: SecretSource | None = None
    """A Secret, one file per key."""


class Toleration(Model):
    rules = (
        Rule(
            cel="!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
            message="`value` must be set only with operator `Equal`",
            check=lambda toleration: toleration.value is None or toleration.operator == "Equal",
        ),
        Rule(
            cel="has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            message="`key` must be set with operator `Equal`; operator `Exists` without a key tolerates every taint",
            check=lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="`tolerationSeconds` must be set only with effect `NoExecute`",
            check=lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        ),
    )

    key: LabelKey | None = None
    """Key of the taint; all keys where it is not set."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal: the taint's value must be `value`; Exists: any value will do."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; all effects where it is not set."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long a pod stays after a NoExecute taint."""


BYTES = ("memory", "ephemeral-storage")


def _all_resources(of: str, cel: str) -> str:
    """CEL: what `cel` says of each `name` of those `of` in both maps; a text that is no quantity is refused elsewhere."""
    return " && ".join(
        f"(!has(self.{side}) || self.{side}.all(name, !({of}) || !isQuantity(string(self.{side}[name])) || {cel}))".replace(
            "VALUE", f"quantity(string(self.{side}[name]))"
        )
        for side in ("requests", "limits")
    )


def _amounts(resources: ResourceRequirements) -> list[tuple[str, Fraction]]:
    both = (resources.requests or {}, resources.limits or {})
    return [(name, amount(value)) for side in both for name, value in side.items()]


def _within_limits(resources: ResourceRequirements) -> bool:
    limits = resources.limits or {}
    return all(
        name not in limits or amount(value) <= amount(limits[name])
        for name, value in (resources.requests or {}).items()
    )


def _devices_are_limits(resources: ResourceRequirements) -> bool:
    limits = resources.limits or {}
    return all(
        "/" not in name or (name in limits and amount(value) == amount(limits[name]))
        for name, value in (resources.requests or {}).items()
    )


class ResourceRequirements(Model):
    rules = (
        Rule(
            cel="!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits)"
            " || !isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name]))"
            " || quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            message="each of `requests` must be at most the one of that name in `limits`: lower it, or raise the limit",
            check=_within_limits,
        ),
        Rule(
            cel="!has(self.requests) || self.requests.all(name, !name.contains('/') || (has(self.limits)"
            " && name in self.limits && (!isQuantity(string(self.requests[name]))"
            " || !isQuantity(string(self.limits[name]))"
            " || quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) == 0)))",
            message="a device in `requests` must stand in `limits`, with the same number: set it in `limits` alone",
            check=_devices_are_limits,
        ),
        Rule(
            cel=_all_resources("name.contains('/')", "VALUE.isInteger()"),
            message="devices must be whole numbers: a container gets no part of one",
            check=lambda resources: all(value.denominator == 1 for name, value in _amounts(resources) if "/" in name),
        ),
        Rule(
            cel=_all_resources("name in ['memory', 'ephemeral-storage']", "VALUE.compareTo(quantity('1Mi')) >= 0"),
            message="`memory` and `ephemeral-storage` must be at least 1Mi: give a unit, as 4Gi; alone it means bytes, and `m` "
            "thousandths",
            check=lambda resources: all(value >= 2**20 for name, value in _amounts(resources) if name in BYTES),
        ),
        Rule(
            cel=_all_resources("name == 'cpu'", "VALUE.compareTo(quantity('1m')) >= 0"),
            message="`cpu` must be at least 1m, a thousandth of a CPU: Ray gives a node without CPUs nothing to do",
            check=lambda resources: all(
                value >= Fraction(1, 1000) for name, value in _amounts(resources) if name == "cpu"
            ),
        ),
    )

    requests: ResourceList | None = None
    """What the scheduler reserves on a node, as `{cpu: 500m, memory: 2Gi}`."""
    limits: ResourceList | None = None
    """What the container may use at most. Ray offers as many CPUs as `cpu` says here."""


def _no_two(items: str, name: str) -> Rule:
    key = to_camel(name)
    return Rule(
        cel=f"!has(self.{items}) || self.{items}.all(one, self.{items}.exists_one(other, other.{key} == one.{key}))",
        message=f"no two of `{items}` must have the same `{key}`",
        check=lambda pod: len({getattr(item, name) for item in getattr(pod, items)}) == len(getattr(pod, items)),
    )


class PodOptions(Model):
    """What can be said about the pods of one kind: a subset of a pod's fields, each bounded, none that gives away the node."""

    rules = (_no_two("volumes", "name"), _no_two("volumes", "mount_path"), _no_two("env", "name"))

    resources: ResourceRequirements = ResourceRequirements(
        requests={"cpu": "250m", "memory": "1Gi"}, limits={"cpu": "1", "memory": "4Gi"}
    )
    """CPU, memory and devices of each pod. The default lets head and worker start beside a cluster's own pods on two CPUs."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64)] = ()
    """Environment variables."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=16)] = ()
    """Volumes and where they are mounted."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] | None = None
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints of nodes to accept."""


class HeadGroup(PodOptions):
    """The head pod. The training itself runs here where there are no workers."""


class WorkerGroup(PodOptions):
    """Worker pods, all alike."""

    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of worker pods."""


CLUSTER_KEY = "ray.io/cluster"


class Ray(Model):
    rules = (
        Rule(
            cel="!has(self.clusterSelector) || (!has(self.head) && !has(self.workers))",
            message="`head` and `workers` must not be set with `clusterSelector`: the pods of that cluster run already",
            check=lambda ray: ray.cluster_selector is None or (ray.head is None and ray.workers is None),
        ),
        Rule(
            cel=f"!has(self.clusterSelector) || '{CLUSTER_KEY}' in self.clusterSelector",
            message=f"`clusterSelector` must have the key `{CLUSTER_KEY}` with the name of a RayCluster",
            check=lambda ray: ray.cluster_selector is None or CLUSTER_KEY in ray.cluster_selector,
        ),
        Rule(
            cel=f"!has(self.clusterSelector) || self.clusterSelector.all(key, key == '{CLUSTER_KEY}'"
            f" && self.clusterSelector[key].matches('{DNS_LABEL}'))",
            message=f"`clusterSelector` must be the name of a RayCluster, as {{{CLUSTER_KEY}: warm}}, and nothing else: KubeRay "
            "looks at no other label",
            check=lambda ray: all(
                key == CLUSTER_KEY and re.fullmatch(DNS_LABEL, value)
                for key, value in (ray.cluster_selector or {}).items()
            ),
        ),
    )

    head: HeadGroup | None = None
    """The head pod; the default will do for a model that one machine trains."""
    workers: WorkerGroup | None = None
    """Worker pods; none by default, the training then runs in the head."""
    cluster_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=8)] | None = None
    """Run on a RayCluster that is there already, as `{ray.io/cluster: NAME}`, instead of making one for this job."""


class Storage(Model):
    rules = (exactly_one_of("uri", "persistent_volume_claim"),)

    uri: (
        Annotated[
            str,
            Field(min_length=6, max_length=1024),
            Must(
                f"^(s3|gs)://[A-Za-z0-9][-A-Za-z0-9._]*(/[^ {CONTROL}]*)?$",
                "must be the URL of a folder in an object store, as s3://bucket/path",
            ),
        ]
        | None
    ) = None
    """An object store, as `s3://bucket/path`."""
    persistent_volume_claim: ObjectName | None = None
    """Name of a PersistentVolumeClaim in the job's namespace."""


def _on_a_running_cluster(spec: TrainingJobSpec) -> bool:
    return spec.ray.cluster_selector is not None


class TrainingJobSpec(Workload):
    """What to train, and where and how it runs."""

    rules = (
        *Workload.rules,
        *(
            Rule(
                cel=f"{cel} || !has(self.ray.clusterSelector)",
                message=f"`{name}` must not be set with `ray.clusterSelector`: the pods of that cluster run already",
                check=lambda spec, unset=unset: not _on_a_running_cluster(spec) or unset(spec),
            )
            for name, cel, unset in (
                ("image", "!has(self.image)", lambda spec: spec.image is None),
                (
                    "imagePullSecrets",
                    "!has(self.imagePullSecrets) || self.imagePullSecrets.size() == 0",
                    lambda spec: not spec.image_pull_secrets,
                ),
                (
                    "serviceAccountName",
                    "!has(self.serviceAccountName)",
                    lambda spec: spec.service_account_name is None,
                ),
                ("data.secretRef", "!has(self.data.secretRef)", lambda spec: spec.data.secret_ref is None),
                (
                    "storage.persistentVolumeClaim",
                    "!has(self.storage) || !has(self.storage.persistentVolumeClaim)",
                    lambda spec: spec.storage is None or spec.storage.persistent_volume_claim is None,
                ),
            )
        ),
    )

    image: ImageName | None = None
    """Image of the Ray pods; by default the operator's setting. It must hold m3_trainer and the same Ray."""
    image_pull_secrets: Annotated[tuple[LocalObjectReference, ...], Field(max_length=8)] = ()
    """Secrets with the credentials of the image's registry."""
    service_account_name: ObjectName | None = None
    """Service account of the Ray pods, for cloud identities; its token is not mounted."""
    storage: Storage | None = None
    """Where checkpoints are kept."""
    ray: Ray = Ray()
    """The Ray cluster."""
    suspend: bool = False
    """While true, nothing runs: a running attempt is stopped, and is not counted as a failure."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a failed attempt is tried again. A fault of the user's (data, file, code) never is."""
    active_deadline_seconds: Seconds | None = None
    """Time for the whole job from its first attempt, all attempts together; then it fails with DeadlineExceeded."""
    pre_running_deadline_seconds: Seconds | None = None
    """Time for an attempt to start running; then the attempt fails with PreRunningDeadlineExceeded."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Delete this TrainingJob so long after it has finished; runs and models in MLflow stay."""

    @property
    def workload(self) -> Workload:
        """The part that says what to train, as the job receives it."""
        return Workload.model_construct(**{name: getattr(self, name) for name in Workload.model_fields})


class Attempt(StatusModel):
    """One try at the job: one RayJob."""

    number: Annotated[int, Field(ge=1, le=1_000_000)]
    """Counts from 1."""
    ray_job_name: Text
    """Name of its RayJob."""
    ray_cluster_name: Text | None = None
    """Name of its RayCluster."""
    head_pod_name: Text | None = None
    """Pod of the head that the job was submitted to; its log has the job's output."""
    job_id: Text | None = None
    """Ray's name for the submitted job."""
    reason: Text | None = None
    """Why it ended, in one word of CamelCase; empty while it runs."""
    message: Message | None = None
    """Why it ended, for people."""
    start_time: datetime
    """When its RayJob was made."""
    running_time: datetime | None = None
    """When its code started to run."""
    completion_time: datetime | None = None
    """When it ended."""


class MetricValue(StatusModel):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    """Name of the metric in MLflow."""
    value: float
    """Its newest value."""


class Progress(StatusModel):
    percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    """How far the job is."""
    estimated_remaining_seconds: Annotated[int, Field(ge=0)] | None = None
    """Time left, as the job estimates it."""
    metrics: Annotated[tuple[MetricValue, ...], Field(max_length=64)] = ()
    """The run's metrics; the most important first."""
    last_updated_time: datetime | None = None
    """When a value here last changed."""


class MlflowRun(StatusModel):
    experiment_id: Text
    """Id of the experiment."""
    run_id: Text
    """Id of the run."""
    url: Text | None = None
    """Page of the run in MLflow."""


class RegisteredModel(StatusModel):
    name: Text
    """Name in MLflow's registry."""
    version: Text
    """Version that this job has registered."""
    uri: Text
    """How to load it, as `models:/fraud_detector/3`."""
    aliases: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    """Aliases that point at this version."""


class Promotion(StatusModel):
    decision: Text
    """Promoted, or Refused."""
    reason: Text
    """Why, in one word of CamelCase."""
    message: Message | None = None
    """Why, for people: both scores, and what to do."""


class Lineage(StatusModel):
    git_commit: Text | None = None
    """Commit of the trainer's source, as its image names it."""
    image_digest: Text | None = None
    """Digest of the image that trained, where the image is named by it."""
    data_digest: Text | None = None
    """Digest of the data."""
    rows: Annotated[int, Field(ge=0)] | None = None
    """Number of rows of the data."""
    spec_hash: Text | None = None
    """Digest of the workload: jobs with equal digests were asked the same."""


class Display(StatusModel):
    """Words for the columns of `kubectl get`, made from the rest of the status. Programs read the conditions instead."""

    status: Text
    """The job's state in one word."""
    metric: Text | None = None
    """The most important metric, as `average_precision=0.6123`."""
    model: Text | None = None
    """The registered version, as `fraud_detector/3`."""


class TrainingJobStatus(StatusModel):
    """What the operator observes."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of `spec` that this status was made from."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()
    """Suspended, QuotaReserved, ClusterReady, Running, Complete, Failed, Registered, Promoted: what `kubectl wait
    --for=condition=…` waits for."""
    attempts: Annotated[
        tuple[Attempt, ...],
        Field(
            max_length=10,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["number"]},
        ),
    ] = ()
    """The newest ten attempts, oldest first."""
    failed_attempts: Annotated[int, Field(ge=0)] = 0
    """How many attempts have failed; one that was suspended has not."""
    start_time: datetime | None = None
    """When the first attempt was made."""
    completion_time: datetime | None = None
    """When the job finished, well or not."""
    settled: bool = False
    """True once nothing is left to find out. A field selector: the operator lists only what is not settled."""
    progress: Progress | None = None
    """How far the job is and how good, while it runs."""
    mlflow: MlflowRun | None = None
    """The MLflow run of the newest attempt."""
    model: RegisteredModel | None = None
    """The model that the job has registered."""
    promotion: Promotion | None = None
    """What became of the wish to promote the model."""
    lineage: Lineage | None = None
    """What the model was made from."""
    display: Display | None = None
    """Words for `kubectl get`."""


_BEFORE_FIRST_ATTEMPT = (
    "has(oldSelf.spec.suspend) && oldSelf.spec.suspend && (!has(oldSelf.status) || !has(oldSelf.status.startTime))"
)


class TrainingJob(Model):
    """Train a model: an attempt is a RayJob, what it learns is in MLflow."""

    rules = (
        Rule(
            cel=f"size(self.metadata.name) <= {MAX_JOB_NAME}"
            " && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message=f"`metadata.name` must be at most {MAX_JOB_NAME} characters, lower-case letters, digits and `-`, "
            "starting with a letter and not ending with `-`: the names of RayJobs and their Services are made from it",
            check=lambda job: job.has_good_name,
        ),
        *immutable("data", "features", "model", "training", unless=_BEFORE_FIRST_ATTEMPT),
    )

    api_version: Literal["m3.dev/v1alpha1"]
    """m3.dev/v1alpha1."""
    kind: Literal["TrainingJob"]
    """TrainingJob."""
    metadata: ObjectMeta
    """Name, namespace, labels."""
    spec: TrainingJobSpec
    """What to train, and where and how it runs."""
    status: TrainingJobStatus | None = None
    """What the operator observes."""

    @model_validator(mode="after")
    def _names_a_queue(self) -> Self:
        """Not a `Rule`: CEL sees of an object's metadata its name alone."""
        queue = (self.metadata.labels or {}).get(QUEUE_LABEL)
        if queue is not None and re.fullmatch(DNS_LABEL, queue) is None:
            raise ValueError(f"label `{QUEUE_LABEL}` must be the name of a LocalQueue, lower-case, is `{queue}`")
        return self

    @property
    def has_good_name(self) -> bool:
        name = self.metadata.name
        fits = 0 < len(name) <= MAX_JOB_NAME and name.isascii() and name[-1] != "-" and name[0].isalpha()
        return fits and name == name.lower() and name.replace("-", "").isalnum()
