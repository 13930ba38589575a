"""Whatever happens to a job, in whatever order: no exception, one RayJob per attempt, an end that stays."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from m3_operator.api.reasons import Reason
from m3_operator.api.v1alpha1 import TrainingJob
from m3_operator.draft import Observed, is_recorded
from m3_operator.mlflow_run import NoRun, RegisteredModel, Run
from m3_operator.pod_status import Diagnosis
from m3_operator.rayjob_status import Failure, observe
from m3_operator.reconcile import attempt_to_look_at, reconcile
from m3_trainer.promotion import Evidence

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
quantities = {"cpu": st.sampled_from([1, 2]), "memory": st.sampled_from(["1Gi", "2Gi"])}
resources = st.builds(
    lambda requests, extra: {"requests": requests, "limits": {name: extra[name] for name in requests}},
    st.fixed_dictionaries({}, optional={"cpu": st.just("500m"), "memory": st.just("512Mi")}),
    st.fixed_dictionaries(quantities),
)
sources = st.sampled_from(
    [
        {"emptyDir": {}},
        {"secret": {"secretName": "s"}},
        {"configMap": {"name": "c"}},
        {"persistentVolumeClaim": {"claimName": "c"}},
    ]
)
values = st.sampled_from(
    [{"value": "x"}, {"value": ""}, {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
     {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
)  # fmt: skip
pods = st.fixed_dictionaries(
    {},
    optional={
        "resources": resources,
        "env": st.lists(
            st.builds(lambda name, value: {"name": f"X{name}"} | value, names, values),
            max_size=3,
            unique_by=lambda variable: variable["name"],
        ),
        "volumes": st.lists(sources, max_size=3).map(
            lambda chosen: [
                {"name": f"v{index}", "mountPath": f"/data/{index}"} | source for index, source in enumerate(chosen)
            ]
        ),
        "nodeSelector": st.just({"disk": "fast"}),
        "tolerations": st.just([{"key": "gpu", "operator": "Exists"}]),
    },
)
rays = st.one_of(
    st.just({"clusterSelector": {"ray.io/cluster": "warm"}}),
    st.fixed_dictionaries(
        {},
        optional={
            "head": pods,
            "workers": st.builds(lambda pod, n: pod | {"replicas": n}, pods, st.integers(0, 3)),
        },
    ),
)
seconds = st.integers(1, 300)
specs = st.fixed_dictionaries(
    {"data": st.builds(lambda target: {"uri": "s3://bucket/a.csv", "target": target}, names)},
    optional={
        "model": st.builds(lambda n: {"hyperparameters": {"n_estimators": n}}, st.integers(1, 500)),
        "features": st.builds(lambda columns: {"exclude": columns}, st.lists(names, max_size=4)),
        "ray": rays,
        "backoffLimit": st.integers(0, 3),
        "activeDeadlineSeconds": seconds,
        "preRunningDeadlineSeconds": seconds,
        "ttlSecondsAfterFinished": st.integers(0, 300),
        "suspend": st.booleans(),
        "storage": st.sampled_from([{"uri": "s3://bucket/state"}]),
        "registry": st.sampled_from(
            [{"modelName": "m"}, {"promotion": {"alias": "champion", "metric": "average_precision", "mode": "max"}}]
        ),
        "tracking": st.builds(lambda name: {"experimentName": name}, names),
        "training": st.sampled_from([{"testSize": 0.3}, {"cvFolds": 3}]),
    },
)
QUEUES = st.sampled_from([None, None, "ml"])
MESSAGES = [
    "",
    "Killed",
    'M3_ERROR {"reason": "InvalidData", "message": "must have rows"}',
    'M3_ERROR {"reason": "TrackingUnavailable", "message": "down", "retriable": true}',
    "M3_ERROR {broken",
]
WORDS = st.tuples(
    st.sampled_from(
        [
            "",
            "Initializing",
            "Waiting",
            "Running",
            "Complete",
            "Failed",
            "ValidationFailed",
            "Retrying",
            "Suspended",
            "Suspending",
            "New",
        ]
    ),
    st.sampled_from(["", "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]),
    st.sampled_from(MESSAGES),
)
RUNS = st.sampled_from(
    [
        NoRun.NOT_ASKED,
        NoRun.NOT_FOUND,
        NoRun.UNAVAILABLE,
        Run("r", "1", "u", 1, "FINISHED", {"roc_auc": 0.8}, model_name="fraud_detector", model_version="3"),
        Run("r", "1", "u", 1, "RUNNING", {}, model_name="m", model_version="4", evidence=Evidence(0.7, "2", 0.6)),
        Run("r", "1", "u", 1, "RUNNING", {"loss": 1.5}, percentage=60, remaining_seconds=9),
    ]
)
MODELS = st.sampled_from(
    [NoRun.NOT_ASKED, NoRun.NOT_FOUND, NoRun.UNAVAILABLE, RegisteredModel(None, {}), RegisteredModel("shop", {"champion": "2"}),
     RegisteredModel("other", {})]
)  # fmt: skip
DIAGNOSES = st.sampled_from(
    [None, Diagnosis("Unschedulable", "0/1 nodes"), Diagnosis("ImagePullBackOff", "no such image")]
)
DEATHS = st.sampled_from([None, Diagnosis("OOMKilled", "at its limit")])
EVENTS = st.one_of(
    st.just(("start", None)),
    st.tuples(st.just("kuberay"), WORDS),
    st.tuples(st.just("time"), st.integers(0, 400)),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("refuse"), st.booleans()),
    st.tuples(st.just("run"), RUNS),
    st.tuples(st.just("model"), MODELS),
    st.tuples(st.just("diagnosis"), DIAGNOSES),
    st.tuples(st.just("death"), DEATHS),
    st.tuples(st.just("head"), st.sampled_from(["head-a", "head-b"])),
    st.tuples(st.just("kueue"), st.booleans()),
)
# with each event: whether the operator is killed after its actions, before it can write the status
STEPS = st.lists(st.tuples(EVENTS, st.booleans()), min_size=1, max_size=12)


class World:
    """A cluster as far as one job sees it: RayJobs by name, and the job's manifest."""

    def __init__(self, make, spec, queue=None):
        self.make, self.body, self.now = make, make.body(**spec), make.noon
        if queue:
            self.body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": queue}
        self.rayjobs, self.created, self.refuses = {}, [], None
        self.seen = {}

    @property
    def job(self):
        return TrainingJob.parse(self.body)

    def name(self):
        return f"fraud-rf-58dc-{attempt_to_look_at(self.job.status)}"

    def unsettled(self):
        return {name for name, made in self.rayjobs.items() if "m3.dev/settled" not in made["metadata"]["labels"]}

    def look(self, refusal=None):
        found = self.rayjobs.get(self.name())
        child = observe(found) if found and (is_recorded(self.job.status) or refusal is None) else None
        return reconcile(self.job, Observed(self.make.settings, child=child, refusal=refusal, **self.seen), self.now)

    def reconcile(self, crash=False):
        """One pass, as the controller makes it. `crash`: killed before the status is written."""
        plan = self.look()
        if plan.apply and self.refuses is not None:
            plan = self.look(self.refuses)
        for rayjob in plan.apply:
            name = rayjob["metadata"]["name"]
            assert name not in self.rayjobs, "a second RayJob for one attempt"
            self.rayjobs[name] = rayjob | {"status": {}}
            self.created.append(name)
        for name in plan.settle:
            self.rayjobs[name]["metadata"]["labels"]["m3.dev/settled"] = "true"
        for name in plan.delete:
            del self.rayjobs[name]
        if not crash:
            self.body = self.make.apply(self.body, plan)
        return plan

    def happen(self, kind, value):
        if kind == "kuberay" and self.name() in self.rayjobs:
            deployment, status, message = value
            words = {"jobDeploymentStatus": deployment, "jobStatus": status, "message": message}
            self.rayjobs[self.name()]["status"] |= words
        elif kind == "head" and self.name() in self.rayjobs:
            self.rayjobs[self.name()]["status"]["rayClusterStatus"] = {
                "head": {"podName": value},
                "observedGeneration": 1,
            }
        elif kind == "kueue" and self.name() in self.rayjobs:
            self.rayjobs[self.name()]["spec"]["suspend"] = value
        elif kind == "time":
            self.now += timedelta(seconds=value)
        elif kind == "suspend":
            self.body["spec"]["suspend"] = value
            self.body["metadata"]["generation"] += 1
        elif kind == "delete":
            self.rayjobs.pop(self.name(), None)
        elif kind == "refuse":
            self.refuses = Failure("RequestRefused", "exceeded quota", retriable=True) if value else None
        elif kind in ("run", "model", "diagnosis", "death"):
            self.seen[kind] = value


WORDS_SHOWN = {"Pending", "Starting", "Running", "Retrying", "Queued", "Suspended", "Complete", "Failed", *Reason}


def finished(status):
    return {item["type"] for item in status.get("conditions", ()) if item["status"] == "True"} & {"Complete", "Failed"}


@given(specs, STEPS, QUEUES)
@settings(max_examples=400, deadline=None)
def test_any_history_ends_well(make, spec, steps, queue):
    world, over = World(make, spec, queue), set()
    for (kind, value), crash in steps:
        world.happen(kind, value)
        world.reconcile(crash)
        before = world.reconcile()
        again = world.reconcile()
        assert (again.apply, again.delete, again.status, again.events) == ((), (), None, ()), (
            "no news must mean no work"
        )
        assert again.requeue_after == before.requeue_after, "no pass may forget when to wake"
        status = world.body["status"]
        assert "NameConflict" not in {item["reason"] for item in status["conditions"]}, "all RayJobs here are ours"
        numbers = [attempt["number"] for attempt in status.get("attempts", ())]
        assert numbers == sorted(set(numbers))
        assert len(set(world.created)) == len(world.created)
        assert world.unsettled() <= ({world.name()} if is_recorded(world.job.status) else set())
        now_over = finished(status)
        assert len(now_over) <= 1
        assert not over or now_over == over, "what is over must stay over"
        over = now_over
        assert status["display"]["status"] in WORDS_SHOWN


@given(specs, QUEUES, st.lists(EVENTS, max_size=4))
@settings(max_examples=5000, deadline=None)
def test_any_job_goes_through(make, spec, queue, events):
    """5,000 jobs that the schema accepts, in any state of the world: no exception, and a status that the models read."""
    world = World(make, spec | {"suspend": False}, queue)
    (rayjob,) = world.reconcile().apply
    assert len(rayjob["metadata"]["name"]) <= 47
    for kind, value in events:
        world.happen(kind, value)
    world.reconcile()
    assert world.job.status is not None
