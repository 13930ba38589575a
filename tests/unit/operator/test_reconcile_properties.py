"""Whatever happens to a job, in whatever order: no exception, one RayJob per attempt, an end that stays."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from m3_operator.api.v1alpha1 import TrainingJob
from m3_operator.mlflow_run import NoRun, Run
from m3_operator.rayjob_status import Failure, observe
from m3_operator.reconcile import Observed, attempt_to_look_at, is_recorded, reconcile

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
quantities = st.dictionaries(st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), st.sampled_from([1, "500m", "2Gi"]))
pods = st.fixed_dictionaries(
    {},
    optional={
        "resources": st.fixed_dictionaries({}, optional={"requests": quantities, "limits": quantities}),
        "env": st.lists(
            st.one_of(
                st.builds(lambda name, value: {"name": f"X{name}", "value": value}, names, st.text(max_size=20)),
                st.builds(
                    lambda name: {"name": f"X{name}", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, names
                ),
            ),
            max_size=3,
        ),
        "volumes": st.lists(
            st.builds(
                lambda source: {"name": "data", "mountPath": "/data"} | source,
                st.sampled_from(
                    [{"emptyDir": {}}, {"secret": {"secretName": "s"}}, {"persistentVolumeClaim": {"claimName": "c"}}]
                ),
            ),
            max_size=2,
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
    },
)
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
        Run("r", "1", "u", 1, "RUNNING", {"loss": 1.5}, percentage=60, remaining_seconds=9),
    ]
)
EVENTS = st.one_of(
    st.just(("start", None)),
    st.tuples(st.just("kuberay"), WORDS),
    st.tuples(st.just("time"), st.integers(0, 400)),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("refuse"), st.booleans()),
    st.tuples(st.just("run"), RUNS),
)
# with each event: whether the operator is killed after its actions, before it can write the status
STEPS = st.lists(st.tuples(EVENTS, st.booleans()), min_size=1, max_size=12)


class World:
    """A cluster as far as one job sees it: RayJobs by name, and the job's manifest."""

    def __init__(self, make, spec):
        self.make, self.body, self.now = make, make.body(**spec), make.noon
        self.rayjobs, self.created, self.run, self.refuses = {}, [], NoRun.NOT_ASKED, None

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
        return reconcile(self.job, Observed(self.make.settings, child=child, run=self.run, refusal=refusal), self.now)

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
            self.rayjobs[self.name()]["status"] = words
        elif kind == "time":
            self.now += timedelta(seconds=value)
        elif kind == "suspend":
            self.body["spec"]["suspend"] = value
            self.body["metadata"]["generation"] += 1
        elif kind == "delete":
            self.rayjobs.pop(self.name(), None)
        elif kind == "refuse":
            self.refuses = Failure("RequestRefused", "exceeded quota", retriable=True) if value else None
        elif kind == "run":
            self.run = value


def finished(status):
    return {item["type"] for item in status.get("conditions", ()) if item["status"] == "True"} & {"Complete", "Failed"}


@given(specs, STEPS)
@settings(max_examples=400, deadline=None)
def test_any_history_ends_well(make, spec, steps):
    world, over = World(make, spec), set()
    for (kind, value), crash in steps:
        world.happen(kind, value)
        world.reconcile(crash)
        world.reconcile()
        again = world.reconcile()
        assert (again.apply, again.delete, again.status, again.events) == ((), (), None, ()), (
            "no news must mean no work"
        )
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
        assert status["display"]["status"] in {
            "Pending", "Starting", "Running", "Retrying", "Suspended", "Complete", "Failed",
        }  # fmt: skip


@given(specs)
@settings(max_examples=300, deadline=None)
def test_any_job_becomes_a_rayjob(make, spec):
    plan = reconcile(make.job(**(spec | {"suspend": False})), Observed(make.settings), make.noon)
    (rayjob,) = plan.apply
    assert len(rayjob["metadata"]["name"]) <= 47
    assert "hostPath" not in str(rayjob)
