"""`m3` on a cluster. Thin: what is decided of a job is in `cluster_job`, what is asked of the cluster in `kube`."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

from m3_trainer import kube
from m3_trainer.cli import cluster_job, show_cluster
from m3_trainer.cli.cluster_job import Job, Object
from m3_trainer.cli.options import (
    MLFLOW_SERVICE,
    SYSTEM_NAMESPACE,
    ClusterTrackingOption,
    ContextOption,
    JobArgument,
    MlflowServiceOption,
    NamespaceOption,
    Output,
    OutputOption,
    SystemNamespaceOption,
    complete_jobs,
)
from m3_trainer.errors import InvalidSpec, M3Error

log = logging.getLogger("m3_trainer")

PANEL = "On a cluster"
WATCH_SECONDS = 1.0
EPILOG = (
    "Exit codes of a cluster's commands: 10 no cluster answers, 11 the cluster refuses, 12 no such job, namespace or log, "
    "13 the job has failed or can no longer become what was waited for, 14 the time is over, 15 `m3 doctor` has found a fault."
)


class Missed(M3Error):
    """The job has failed, or can no longer become what was waited for."""

    exit_code = 13


class TimeIsOver(M3Error):
    """The time that was given for waiting is over."""

    exit_code = 14


Command = TypeVar("Command", bound=Callable[..., Any])


def _for_people(command: Command) -> Command:
    """Ctrl-C ends the watching and not the job; a reader that goes away (`| head`) is no fault."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt as stop:
            print("stopped watching; nothing in the cluster was changed by that", file=sys.stderr)
            raise typer.Exit(130) from stop
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None

    return run  # type: ignore[return-value]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    from m3_trainer.cli import doctor

    for command in (submit, status, logs, wait, cancel, resume, doctor.doctor):
        app.command(rich_help_panel=PANEL, epilog=EPILOG, help=_reflowed(command))(_for_people(command))


def _reflowed(command: Callable[..., Any]) -> str:
    """A docstring's paragraphs as lines: typer keeps the breaks of the source, which fit no terminal."""
    return "\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n"))


# --- submit -----------------------------------------------------------------------------------------------------------
def submit(
    file: Annotated[str, typer.Option("--filename", "-f", help="TrainingJob file; - for standard input.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the progress to the end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the API server, and change nothing.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete a job of that name first, and run afresh.")
    ] = False,
    output: OutputOption = Output.text,
) -> None:
    """Run the TrainingJobs of a file on a cluster.

    The file may hold several documents. Each is judged here as `m3 run` judges it, then all of them by the API server, and
    only then is any made. A job that is there already gets the file's fields; one that has finished is not run again:
    --replace deletes and makes it anew. With --wait the exit code is 0 for Complete and 13 for Failed.

    Example: m3 submit -f manifests/samples/trainingjob.yaml --wait
    """
    from m3_trainer.cli import cluster_files

    documents = cluster_files.read(file)
    cluster = kube.connect(context, namespace)
    targets = [(_namespace_of(document, namespace, cluster), document) for document in documents]
    before = [_existing(cluster, where, document["metadata"]["name"]) for where, document in targets]
    for (where, document), found in zip(targets, before, strict=True):
        _check(cluster, where, document, found is not None, replace)
    if dry_run:
        _tell([_done(document, where, "valid") for where, document in targets], output)
        return
    results = [
        _apply(cluster, where, document, found, replace)
        for (where, document), found in zip(targets, before, strict=True)
    ]
    if not wait:
        _tell(results, output)
        return
    _follow_all(cluster, results, output)


def _namespace_of(document: Object, asked: str | None, cluster: kube.Kube) -> str:
    own = document["metadata"].get("namespace")
    if asked and own and asked != own:
        raise InvalidSpec(f"--namespace: must be the file's, {own}, or be left out, is {asked}")
    return own or cluster.namespace


def _existing(cluster: kube.Kube, namespace: str, name: str) -> Job | None:
    try:
        return Job(cluster.job(namespace, name), datetime.now(UTC))
    except kube.NotInstalled:
        raise
    except kube.NotFound:
        if not cluster.has_namespace(namespace):
            raise
        return None


def _check(cluster: kube.Kube, namespace: str, document: Object, is_there: bool, replace: bool) -> None:
    """The API server's judgement, before anything is changed. Where a job is to be replaced, only the file is judged."""
    meta = document["metadata"]
    anew = document | {"metadata": meta | {"name": f"m3-check-{os.getpid()}"}}
    try:
        cluster.apply(namespace, anew if is_there and replace else document, dry_run=True)
    except InvalidSpec as error:
        hint = ""
        if is_there and not replace and _is_good(cluster, namespace, anew):
            hint = "\n--replace deletes the job that is there, and makes it anew"
        raise InvalidSpec(f"the API server refuses {meta['name']}: {error}{hint}") from error


def _is_good(cluster: kube.Kube, namespace: str, document: Object) -> bool:
    try:
        cluster.apply(namespace, document, dry_run=True)
    except InvalidSpec:
        return False
    return True


def _apply(cluster: kube.Kube, namespace: str, document: Object, before: Job | None, replace: bool) -> Object:
    if before and replace:
        _delete(cluster, before)
    made = cluster.apply(namespace, document)
    if before is None:
        action = "created"
    elif replace:
        action = "replaced"
    else:
        same = made["metadata"]["resourceVersion"] == before.object["metadata"]["resourceVersion"]
        action = "unchanged" if same else "configured"
    result = _done(made, namespace, action)
    if before and not replace:
        _note_on(before, result["name"])
    return result


def _note_on(before: Job, name: str) -> None:
    if before.is_finished:
        log.warning("%s has finished (%s) and is not run again; --replace makes it anew", name, before.state)
    elif before.object["spec"].get("suspend"):
        log.warning("%s is suspended: m3 resume %s", name, name)


def _delete(cluster: kube.Kube, job: Job) -> None:
    """Delete, and come back when the name is free."""
    try:
        cluster.delete(job.namespace, job.name, job.uid)
        for seen in cluster.follow(job.namespace, job.name, timeout=60):
            if seen["metadata"]["uid"] != job.uid:
                return
    except kube.NotFound:
        return
    raise TimeIsOver(f"`{job.name}` is being deleted, and is still there: somebody's finalizer holds it")


def _done(document: Object, namespace: str, action: str) -> Object:
    meta = document["metadata"]
    return {"name": meta["name"], "namespace": namespace, "uid": meta.get("uid"), "action": action}


def _tell(results: list[Object], output: Output) -> None:
    if output is Output.json:
        print(json.dumps({"jobs": results}))
        return
    for each in results:
        print(f"trainingjob.m3.dev/{each['name']} {each['action']}")
    for each in results:
        if each["action"] in ("created", "replaced", "configured"):
            where = "" if each["namespace"] == "default" else f" -n {each['namespace']}"
            print(f"follow it:  m3 logs -f {each['name']}{where}")


def _follow_all(cluster: kube.Kube, results: list[Object], output: Output) -> None:
    """One after the other: they run side by side meanwhile, and the last word is the same."""
    ended = [_to_the_end(cluster, each["namespace"], each["name"]) for each in results]
    if output is Output.json:
        pairs = zip(results, ended, strict=True)
        print(json.dumps({"jobs": [cluster_job.document(job) | {"action": each["action"]} for each, job in pairs]}))
    else:
        print("\n\n".join(show_cluster.job(job) for job in ended))
    if failed := [job.name for job in ended if job.has("Failed")]:
        raise Missed(f"{', '.join(failed)} failed")


def _to_the_end(cluster: kube.Kube, namespace: str, name: str) -> Job:
    told = ""
    for job in _followed(cluster, namespace, name, None):
        line = show_cluster.change(job)
        if line != told:
            log.info("%s", line)
        told = line
        # Registered follows Complete by one answer of MLflow: who waited wants the model's name.
        if job.has("Failed") or (job.has("Complete") and job.condition("Registered")):
            return job
    raise AssertionError("a watch without an end has ended")


def _followed(cluster: kube.Kube, namespace: str, name: str, timeout: float | None) -> Iterator[Job]:
    for found in cluster.follow(namespace, name, timeout):
        yield Job(found, datetime.now(UTC))


# --- status -----------------------------------------------------------------------------------------------------------
def status(
    job: Annotated[str | None, typer.Argument(help="Name of a TrainingJob.", autocompletion=complete_jobs)] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="The jobs of every namespace.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it, live; Ctrl-C ends that.")] = False,
    output: OutputOption = Output.text,
) -> None:
    """Show the jobs of a namespace, or one job: conditions, attempts, progress, metrics, model, and what to do next.

    Example: m3 status fraud-rf
    """
    if job and all_namespaces:
        raise InvalidSpec("--all-namespaces: must be left out with the name of a job; -n names its namespace")
    if watch and output is Output.json:
        raise InvalidSpec("--watch: must be left out with --output json; m3 wait waits for scripts")
    cluster = kube.connect(context, namespace)

    def seen() -> list[Job]:
        now = datetime.now(UTC)
        if job:
            return [Job(cluster.job(cluster.namespace, job), now)]
        return [Job(each, now) for each in cluster.jobs(None if all_namespaces else cluster.namespace)]

    if watch:
        _live(lambda: _shown(seen(), job, all_namespaces, cluster.namespace))
    elif output is Output.json:
        found = [cluster_job.document(each) for each in seen()]
        print(json.dumps(found[0] if job else {"jobs": found}))
    else:
        print(_shown(seen(), job, all_namespaces, cluster.namespace))


def _shown(jobs: list[Job], name: str | None, everywhere: bool, namespace: str) -> str:
    if name:
        return show_cluster.job(jobs[0])
    if not jobs:
        place = "in the cluster" if everywhere else f"in namespace {namespace}; m3 status -A looks everywhere"
        return f"no TrainingJob {place}"
    return show_cluster.table(jobs, with_namespace=everywhere)


def _live(text: Callable[[], str]) -> None:
    """On a terminal in place; elsewhere again at each change, so that a log of it can be read."""
    from rich.live import Live
    from rich.text import Text

    if not sys.stdout.isatty():
        told = ""
        while True:
            if (now := text()) != told:
                print(told := now, flush=True)
            time.sleep(WATCH_SECONDS)
    with Live(Text(text()), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(Text(text()), refresh=True)


# --- logs -------------------------------------------------------------------------------------------------------------
def logs(
    job: JobArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over, across attempts.")
    ] = False,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="By default the newest.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only the last so many lines.")] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    tracking_uri: ClusterTrackingOption = None,
    system_namespace: SystemNamespaceOption = SYSTEM_NAMESPACE,
    mlflow_service: MlflowServiceOption = MLFLOW_SERVICE,
    output: OutputOption = Output.text,
) -> None:
    """Show a job's output: live while it runs, from MLflow when it is over.

    Example: m3 logs -f fraud-rf
    """
    from m3_trainer.cli import cluster_logs, cluster_mlflow

    if follow and output is Output.json:
        raise InvalidSpec("--follow: must be left out with --output json; wait first: m3 wait JOB")
    cluster = kube.connect(context, namespace)
    mlflow = (
        cluster_mlflow.at(tracking_uri)
        if tracking_uri
        else cluster_mlflow.in_cluster(cluster, system_namespace, mlflow_service)
    )
    if follow:
        for line in cluster_logs.follow(cluster, mlflow, cluster.namespace, job, attempt, tail):
            print(line, flush=True)
        return
    seen = cluster_logs.look(cluster, cluster.namespace, job)
    found = cluster_logs.read(cluster, mlflow, seen, attempt, tail)
    if output is Output.json:
        told = {"job": job, "namespace": seen.namespace, "attempt": found.attempt, "source": found.source}
        print(json.dumps(told | {"lines": found.lines}))
    else:
        print("\n".join(found.lines))


# --- wait -------------------------------------------------------------------------------------------------------------
def wait(
    job: JobArgument,
    wanted: Annotated[
        str | None,
        typer.Option(
            "--for",
            help=f"Condition to wait for: {', '.join(cluster_job.CONDITIONS)}. Without it: until the job is over.",
        ),
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="How long, as 90s, 10m or 1h30m; by default for ever.")] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Wait for a job. Ends at once when it has failed, which `kubectl wait --for=condition=Complete` does not.

    Exit code 0: reached (without --for: Complete); 13: the job has failed, or can no longer become it; 14: the time is over.

    Example: m3 wait fraud-rf --timeout 10m
    """
    condition = _condition(wanted)
    seconds = None if timeout is None else _seconds(timeout)
    cluster = kube.connect(context, namespace)
    seen, verdict, told = None, cluster_job.Verdict(), ""
    for seen in _followed(cluster, cluster.namespace, job, seconds):
        verdict = cluster_job.judge(seen, condition)
        line = show_cluster.change(seen)
        if line != told and output is Output.text:
            log.info("%s", line)
        told = line
        if verdict.reached or verdict.impossible:
            break
    assert seen is not None, "a job is seen before its changes are"
    if output is Output.json:
        result = "reached" if verdict.reached else "impossible" if verdict.impossible else "timeout"
        print(json.dumps(cluster_job.document(seen) | {"for": condition, "result": result}))
    elif verdict.reached:
        print(f"trainingjob.m3.dev/{job} {condition}")
    _end(seen, condition, verdict, timeout)


def _end(job: Job, condition: str, verdict: cluster_job.Verdict, timeout: str | None) -> None:
    if verdict.reached:
        return
    telling = job.telling
    why = f"({telling.get('reason', 'no word of the operator yet')}): {telling.get('message', '')}".removesuffix(": ")
    if verdict.impossible:
        raise Missed(f"`{job.name}` is {job.state} and will not become {condition} {why}")
    raise TimeIsOver(f"`{job.name}` is not {condition} after {timeout}; it is {job.state} {why}")


def _condition(wanted: str | None) -> str:
    """`Complete`, `complete` and, as kubectl spells it, `condition=Complete`."""
    asked = (wanted or "Complete").removeprefix("condition=")
    found = next((kind for kind in cluster_job.CONDITIONS if kind.lower() == asked.lower()), None)
    if found is None:
        raise InvalidSpec(f"--for: must be one of {', '.join(cluster_job.CONDITIONS)}, is {wanted}")
    return found


def _seconds(text: str) -> float:
    """`90s`, `10m`, `1h30m`, `45`: seconds where no unit stands."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    if not found or not text:
        raise InvalidSpec(f"--timeout: must be a time as 90s, 10m or 1h30m, is {text}")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


# --- cancel and resume ------------------------------------------------------------------------------------------------
def cancel(
    job: JobArgument,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the job and its record.")] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Stop a job, and keep its record.

    It sets spec.suspend: what runs is stopped and its nodes are free within seconds, its MLflow run ends as KILLED, and the
    job stays, with its attempts, as Suspended. `m3 resume` begins a new attempt; until somebody asks for that, nothing does.
    With --delete the job goes too, finished or not; its runs and models in MLflow stay.

    Example: m3 cancel fraud-rf
    """
    cluster = kube.connect(context, namespace)
    found = Job(cluster.job(cluster.namespace, job), datetime.now(UTC))
    if delete:
        _delete(cluster, found)
        action = "deleted"
    elif found.is_finished:
        log.warning("%s has finished already (%s): there is nothing to stop", job, found.state)
        action = "unchanged"
    else:
        action = _suspend(cluster, found, True, "suspended")
    _tell([_done(found.object, found.namespace, action)], output)


def resume(
    job: JobArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Go on with a job that was cancelled: a new attempt begins.

    Example: m3 resume fraud-rf
    """
    cluster = kube.connect(context, namespace)
    found = Job(cluster.job(cluster.namespace, job), datetime.now(UTC))
    if found.is_finished:
        raise InvalidSpec(f"`{job}` has finished ({found.state}) and is not run again: m3 submit --replace -f FILE")
    action = _suspend(cluster, found, False, "resumed")
    _tell([_done(found.object, found.namespace, action)], output)


def _suspend(cluster: kube.Kube, job: Job, wanted: bool, action: str) -> str:
    if bool(job.object["spec"].get("suspend")) == wanted:
        return "unchanged"
    cluster.patch(job.namespace, job.name, {"suspend": wanted})
    return action
