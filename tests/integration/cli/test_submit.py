"""m3 submit, against the real API server; the operator at work where a job has to move."""

import json

import pytest

BAD_MODEL = {"model": {"type": "random_forest", "hyperparameters": {"n_estimatros": 5}}}


def test_a_job_is_created_then_unchanged_then_configured(m3, namespace, job_yaml):
    made = m3("submit", "-f", "-", text=job_yaml())
    assert (made.code, made.err) == (0, "")
    assert made.out.splitlines() == [
        "trainingjob.m3.dev/job created",
        f"follow it:  m3 logs -f job -n {namespace.name}",
    ]
    again = m3("submit", "-f", "-", text=job_yaml())
    assert again.out == "trainingjob.m3.dev/job unchanged\n"
    changed = m3("submit", "-f", "-", text=job_yaml(backoffLimit=0))
    assert changed.out.splitlines()[0] == "trainingjob.m3.dev/job configured"
    assert namespace.job("job")["spec"]["backoffLimit"] == 0
    taken_out = m3("submit", "-f", "-", text=job_yaml())
    assert taken_out.out.splitlines()[0] == "trainingjob.m3.dev/job configured"
    assert namespace.job("job")["spec"]["backoffLimit"] == 2, "a field that left the file has its default again"


def test_the_file_wins_over_what_kubectl_had_set(m3, namespace, job_yaml):
    namespace.server.kubectl("apply", f"-n={namespace.name}", "-f", "-", text=job_yaml(backoffLimit=5))
    assert m3("submit", "-f", "-", text=job_yaml(backoffLimit=1)).code == 0
    assert namespace.job("job")["spec"]["backoffLimit"] == 1


def test_json_is_one_document(m3, namespace, job_yaml):
    (job,) = m3.json("submit", "-f", "-", text=job_yaml())["jobs"]
    uid = namespace.job("job")["metadata"]["uid"]
    assert job == {"name": "job", "namespace": namespace.name, "uid": uid, "action": "created"}


def test_a_null_is_kept(m3, namespace, job_yaml):
    hyperparameters = {"max_depth": None, "n_estimators": 3}
    m3.json("submit", "-f", "-", text=job_yaml(model={"hyperparameters": hyperparameters}))
    assert namespace.job("job")["spec"]["model"]["hyperparameters"] == hyperparameters


def test_the_documents_of_a_file_are_made_together_or_not_at_all(m3, namespace, job_yaml):
    refused_here = "---\n".join((job_yaml("one"), job_yaml("two", **BAD_MODEL), job_yaml("three", **BAD_MODEL)))
    ended = m3("submit", "-f", "-", text=refused_here)
    assert ended.code == 2
    first, second = ended.err.splitlines()
    assert first.startswith("error: -, document 2: spec.model: ")
    assert second.startswith("-, document 3: spec.model: ")
    refused_there = "---\n".join((job_yaml("one"), job_yaml("two", ray={"workers": {"replicas": -1}})))
    ended = m3("submit", "-f", "-", text=refused_there)
    assert (ended.code, ended.err) == (
        2,
        "error: the API server refuses two: spec.ray.workers.replicas: must be greater than or equal to 0, is -1\n",
    )
    assert namespace.job("one") is None
    both = m3.json("submit", "-f", "-", text=job_yaml("one") + "---\n" + job_yaml("two"))
    assert [job["action"] for job in both["jobs"]] == ["created", "created"]
    twice = m3("submit", "-f", "-", text=job_yaml("one") + "---\n" + job_yaml("one"))
    assert (twice.code, "one stands twice" in twice.err) == (2, True)


def test_a_bad_file_gets_the_same_words_as_from_m3_run(m3, tmp_path, job_yaml):
    (tmp_path / "bad.yaml").write_text(job_yaml(**BAD_MODEL))
    here, there = m3("run", "-f", "bad.yaml"), m3("submit", "-f", "bad.yaml")
    assert "n_estimators" in here.err
    assert (there.code, there.err) == (here.code, here.err)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"ray": {"hed": {}}}, "spec.ray.hed: must be a known field"),
        ({"backoffLimit": "two"}, "spec.backoffLimit: must be numeric (int or float), is string"),
        ({"backoffLimit": 101}, "spec.backoffLimit: must be less than or equal to 100, is 101"),
        (
            {"image": "a/b:1", "ray": {"clusterSelector": {"ray.io/cluster": "warm"}}},
            "spec: `image` must not be set with `ray.clusterSelector`: the pods of that cluster run already",
        ),
    ],
)
def test_the_api_servers_refusal_is_a_sentence(m3, job_yaml, spec, told):
    ended = m3("submit", "-f", "-", text=job_yaml(**spec))
    assert (ended.code, ended.out, ended.err) == (2, "", f"error: the API server refuses job: {told}\n")


@pytest.mark.usefixtures("operator")
def test_what_a_job_was_made_from_stays_unless_it_is_replaced(m3, namespace, kuberay, job_yaml):
    m3.json("submit", "-f", "-", text=job_yaml())
    job = namespace.job("job")
    kuberay.start(namespace.wait_for_rayjob(job))
    other = job_yaml(model={"randomState": 1})
    refused = m3("submit", "-f", "-", text=other)
    assert refused.code == 2
    assert refused.err.startswith("error: the API server refuses job: `spec.model` must stay as it was created")
    assert refused.err.endswith("\n--replace deletes the job that is there, and makes it anew\n")
    (replaced,) = m3.json("submit", "-f", "-", "--replace", text=other)["jobs"]
    assert replaced["action"] == "replaced"
    assert replaced["uid"] == namespace.job("job")["metadata"]["uid"] != job["metadata"]["uid"]


def test_a_dry_run_asks_and_makes_nothing(m3, namespace, job_yaml):
    ended = m3("submit", "-f", "-", "--dry-run", text=job_yaml())
    assert (ended.code, ended.out) == (0, "trainingjob.m3.dev/job valid\n")
    assert namespace.job("job") is None
    assert m3("submit", "-f", "-", "--dry-run", text=job_yaml(backoffLimit=-1)).code == 2


@pytest.mark.usefixtures("operator")
def test_wait_follows_a_job_to_its_model(m3, namespace, mlflow, kuberay, job_yaml, tmp_path):
    (tmp_path / "job.yaml").write_text(job_yaml())
    process = m3.start("submit", "-f", "job.yaml", "--wait", "--output", "json")
    rayjob = namespace.wait_for_rayjob(_made(namespace))
    kuberay.start(rayjob)
    namespace.wait_for_condition("job", "Running")
    mlflow.finish(mlflow.train(namespace.job("job"), average_precision=0.5))
    kuberay.succeeded(rayjob)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    (job,) = json.loads(out)["jobs"]
    assert (job["state"], job["action"], job["model"]["version"]) == ("Complete", "created", "3")
    assert "job: Running" in err
    assert err.splitlines()[-1].startswith("job: Complete")
    again = m3("submit", "-f", "job.yaml")
    assert again.err == "job has finished (Complete) and is not run again; --replace makes it anew\n"


@pytest.mark.usefixtures("operator")
def test_wait_ends_with_13_and_the_users_error_when_the_job_fails(m3, namespace, kuberay, job_yaml, tmp_path):
    (tmp_path / "job.yaml").write_text(job_yaml())
    process = m3.start("submit", "-f", "job.yaml", "--wait")
    rayjob = namespace.wait_for_rayjob(_made(namespace))
    kuberay.start(rayjob)
    fault = {"reason": "InvalidData", "type": "DataError", "message": "no column TX_FRAUD", "retriable": False}
    kuberay.failed(rayjob, "M3_ERROR " + json.dumps(fault))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 13
    assert "no column TX_FRAUD" in out
    assert f"m3 logs job -n {namespace.name}" in out
    assert err.splitlines()[-1] == "error: job failed"


def _made(namespace):
    from support import wait_until

    wait_until(lambda: namespace.job("job"), 20)
    return namespace.job("job")
