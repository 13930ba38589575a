"""The command `m3`. Commands import what they need when they run: `m3 --help` must not wait for scikit-learn."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from m3_trainer import __version__, imports
from m3_trainer.cli import bar, classic, cluster, environment, logs, model_folder, show, topics
from m3_trainer.cli.options import (
    DEFAULT_HOME,
    HomeOption,
    LogConfigOption,
    ModelOutputOption,
    Output,
    OutputOption,
    TrackingOption,
)
from m3_trainer.errors import InvalidSpec, M3Error, Stopped, StorageFull, is_disk_full

log = logging.getLogger("m3_trainer")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, track and score tabular models: the same file on a laptop and, by kubectl apply, on a cluster.",
    epilog=topics.EPILOG,
)
data_app = typer.Typer(no_args_is_help=True, help="Make data, or fetch it.")
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def _begin(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")] = False,
) -> None:
    logs.begin(quiet)
    if version:
        print(__version__)
        raise typer.Exit
    if ctx.obj:
        log.info("from %s: %s", environment.FILE, ", ".join(ctx.obj))


@app.command()
def run(
    file: Annotated[str, typer.Option("--filename", "-f", help="TrainingJob file; - for standard input.")],
    model_output_path: ModelOutputOption = None,
    log_config: LogConfigOption = None,
    output: OutputOption = Output.text,
    home: HomeOption = DEFAULT_HOME,
    tracking_uri: TrackingOption = None,
) -> None:
    """Run a TrainingJob on this machine, without a cluster.

    Example: m3 run -f manifests/samples/trainingjob.yaml
    """
    from m3_trainer import files

    logs.configure(log_config)
    job = files.read_job(file)
    log.info("TrainingJob %s", job.name)
    _train(job.workload, _Local(home, tracking_uri, model_output_path, output), job.name, file)


@app.command()
def train(
    data: Annotated[str | None, typer.Option(envvar="TRAIN_DATA_PATH", help="CSV or Parquet: a path or a URL.")] = None,
    config: Annotated[str | None, typer.Option(help="Workload file (YAML); flags win over it.")] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict; by default the first known name.")] = None,
    model_type: Annotated[
        str | None, typer.Option(help="Type of model, as random_forest.", autocompletion=classic.complete_types)
    ] = None,
    n_estimators: Annotated[int | None, typer.Option(help="Trees of the forest.")] = None,
    max_depth: Annotated[int | None, typer.Option(help="Depth of the trees.")] = None,
    min_samples_split: Annotated[int | None, typer.Option(help="Rows that a branch needs to be divided.")] = None,
    min_samples_leaf: Annotated[int | None, typer.Option(help="Rows that a leaf needs.")] = None,
    test_size: Annotated[float | None, typer.Option(help="Share of the rows to test on.")] = None,
    cv_folds: Annotated[int | None, typer.Option(help="Folds to cross-validate on as well.")] = None,
    sample_size: Annotated[int | None, typer.Option(envvar="SAMPLE_SIZE", help="Train on this many rows.")] = None,
    experiment_name: Annotated[
        str | None, typer.Option(envvar="MLFLOW_EXPERIMENT_NAME", help="MLflow experiment.")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="Name to register the model by.")] = None,
    random_state: Annotated[int | None, typer.Option(help="Seed.")] = None,
    model_output_path: ModelOutputOption = None,
    log_config: LogConfigOption = None,
    output: OutputOption = Output.text,
    home: HomeOption = DEFAULT_HOME,
    tracking_uri: TrackingOption = None,
) -> None:
    """Train from flags, without a TrainingJob file. Options may be spelt with _ as well.

    Flags win over the environment, that over .env in the working folder, and that over --config.

    Example: m3 train --data data/sample.csv --n-estimators 200 --max-depth 10 --experiment-name trial --sample-size 10000

    Example: m3 train --config config/model_config.yaml --data data/sample.csv --log-config config/logging_config.yaml
    """
    from m3_trainer import files

    logs.configure(log_config)
    flags = {
        ("data", "uri"): data,
        ("data", "target"): target,
        ("data", "sampleSize"): sample_size,
        ("model", "type"): model_type,
        ("model", "randomState"): random_state,
        ("model", "hyperparameters", "n_estimators"): n_estimators,
        ("model", "hyperparameters", "max_depth"): max_depth,
        ("model", "hyperparameters", "min_samples_split"): min_samples_split,
        ("model", "hyperparameters", "min_samples_leaf"): min_samples_leaf,
        ("training", "testSize"): test_size,
        ("training", "cvFolds"): cv_folds,
        ("tracking", "experimentName"): experiment_name,
        ("registry", "modelName"): model_name,
    }
    workload = files.parse_workload(classic.document(config, flags), source=config or "m3 train")
    _train(workload, _Local(home, tracking_uri, model_output_path, output))


@app.command(hidden=True)
def job(home: HomeOption = DEFAULT_HOME) -> None:
    """What runs inside the cluster: `m3 attempt`, supervised."""
    from m3_trainer import supervisor

    raise typer.Exit(supervisor.main(["--home", str(home)]))


@app.command(hidden=True)
def attempt(home: HomeOption = DEFAULT_HOME) -> None:
    """One attempt of a job: the workload comes as `M3_WORKLOAD`; the last line of a failure is `M3_ERROR {json}`."""
    from m3_trainer import files

    with imports.uncollected("m3_trainer.train"):
        from m3_trainer.origin import Origin
        from m3_trainer.tracking import Tracker
        from m3_trainer.train import train as train_workload

    _stop_on_signals(signal.SIGTERM, signal.SIGINT)
    try:
        workload = files.parse_workload(_environment_json("M3_WORKLOAD"), at="spec")
        tracker = Tracker.choose(os.environ.get("MLFLOW_TRACKING_URI"), home)
        result = train_workload(workload, tracker, Origin.from_environment(os.environ))
    except (M3Error, OSError) as error:
        _flush_last_line(_as_ours(error).report())
        raise typer.Exit(_as_ours(error).exit_code) from error
    print(json.dumps(result.document()))


def _environment_json(name: str) -> dict[str, Any]:
    try:
        document = json.loads(os.environ.get(name, ""))
    except ValueError as error:
        raise InvalidSpec(f"{name}: must hold the workload as JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSpec(f"{name}: must hold a JSON object")
    return document


def _flush_last_line(line: str) -> None:
    logging.shutdown()
    sys.stderr.flush()
    print(line, flush=True)


@dataclass(frozen=True)
class _Local:
    """Where a run on this machine goes, and how it is told."""

    home: Path
    tracking_uri: str | None
    model_output_path: Path | None
    output: Output


def _train(workload: Any, local: _Local, name: str | None = None, file: str | None = None) -> None:
    with imports.uncollected("m3_trainer.train"):
        from m3_trainer.origin import Origin
        from m3_trainer.tracking import Tracker
        from m3_trainer.train import train as train_workload

    _stop_on_signals(signal.SIGTERM, signal.SIGINT)
    model_folder.prepare(local.model_output_path)
    tracker = Tracker.choose(local.tracking_uri, local.home)
    with bar.watching() as watch:
        result = train_workload(workload, tracker, Origin(name=name), watch)
    if local.model_output_path:
        written = model_folder.write(local.model_output_path, result.model, tracker)
        result.model["path"] = str(written)
    print(json.dumps(result.document()) if local.output is Output.json else show.result(result, file))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION or models:/NAME@ALIAS")],
    features: Annotated[
        str, typer.Option(help="One row or a list of rows, as JSON: named fields, or numbers in order.")
    ],
    allow_module: Annotated[
        list[str] | None,
        typer.Option(help="Module whose class the model may be of: its code runs. Also M3_MODEL_MODULES=a,b."),
    ] = None,
    output: OutputOption = Output.text,
    home: HomeOption = DEFAULT_HOME,
    tracking_uri: TrackingOption = None,
) -> None:
    """Score rows with a registered model: the probability of fraud of each.

    Example: m3 predict models:/fraud_detector/1 --features '[250, 0, 1, 12, 31.5, 8, 0.4]'
    """
    from m3_trainer import registry
    from m3_trainer.tracking import Tracker

    rows = _rows(features)
    stored = registry.load(model, Tracker.choose(tracking_uri, home), allow_module or ())
    scores = registry.score(stored, rows)
    document = {"model": model, "probabilities": scores, "threshold": stored.threshold}
    print(json.dumps(document) if output is Output.json else show.scores(model, scores))


def _rows(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidSpec(f"--features: must be JSON, as '[250, 0, 1]' or '{{\"TX_AMOUNT\": 250}}': {error}") from error
    rows = value if isinstance(value, list) and value and isinstance(value[0], (list, dict)) else [value]
    if not all(isinstance(row, (list, dict)) and row for row in rows):
        raise InvalidSpec("--features: must be a row (a list of numbers or named fields) or a list of rows")
    return rows


@app.command()
def ui(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5050,
) -> None:
    """Look at the runs of this machine in MLflow, in a browser.

    Example: m3 ui --port 5050
    """
    database = home.resolve() / "mlflow.db"
    if not database.is_file():
        raise InvalidSpec(
            f"--home: {home} must hold runs; none yet. Run one first: m3 run -f manifests/samples/trainingjob.yaml"
        )
    log.info("MLflow at http://127.0.0.1:%d (Ctrl-C ends it)", port)
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{database}",
        "--artifacts-destination",
        str(home.resolve() / "artifacts"),
    ]
    # Its job runner alone would hold 1.1 GB for features that nobody uses here.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, [sys.executable, *command, *stores], environment)  # noqa: S606


@data_app.command("sample")
def data_sample(
    out: Annotated[Path, typer.Option("--out", help="File to write: .csv, .csv.gz or .parquet.")] = Path(
        "data/sample.csv"
    ),
    rows: Annotated[int, typer.Option(help="Transactions.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Seed: the same seed gives the same rows.")] = 7,
    days: Annotated[int, typer.Option(help="Days that they spread over.")] = 60,
    output: OutputOption = Output.text,
) -> None:
    """Generate card transactions with three patterns of fraud.

    Example: m3 data sample --rows 1000000 --out data/sample.parquet
    """
    from m3_trainer.data import sample

    if not out.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise InvalidSpec(f"--out: must end in .csv, .csv.gz or .parquet, is {out}")
    frame = sample.transactions(rows, seed, days)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out, index=False) if out.suffix == ".parquet" else frame.to_csv(out, index=False)
    told = {"path": str(out), "rows": len(frame), "positives": int(frame[sample.TARGET].sum()), "target": sample.TARGET}
    text = "{path}: {rows:,} transactions, {positives:,} of them fraud (column {target})".format(**told)
    print(json.dumps(told) if output is Output.json else text)


class Dataset(StrEnum):
    ieee_cis = "ieee-cis"


@data_app.command("download")
def data_download(
    name: Annotated[Dataset, typer.Argument(help="Which data.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; by default data/NAME.parquet.")] = None,
    output: OutputOption = Output.text,
) -> None:
    """Fetch a public data set, under its own terms: ieee-cis, from Kaggle with a key of your own.

    Example: m3 data download ieee-cis && m3 run -f manifests/samples/ieee-cis.yaml
    """
    from m3_trainer.data import kaggle

    target = out or Path("data") / f"{name.value}.parquet"
    if target.suffix != ".parquet":
        raise InvalidSpec(f"--out: must end in .parquet, is {target}")
    told = {"path": str(target), "rows": kaggle.download(target), "target": "isFraud"}
    text = "{path}: {rows:,} transactions (column {target})".format(**told)
    print(json.dumps(told) if output is Output.json else text)


cluster.add_to(app)


@app.command("help")
def help_(
    about: Annotated[
        list[str] | None,
        typer.Argument(help="A command, or exit-codes or environment.", autocompletion=topics.complete),
    ] = None,
) -> None:
    """Help on a command, on exit codes or on the environment's variables.

    Example: m3 help exit-codes
    """
    if about and about[0] in topics.TOPICS:
        print(topics.TOPICS[about[0]]())
    else:
        app(args=[*(about or ()), "--help"])


def _stop_on_signals(*signals: signal.Signals) -> None:
    """The first of them ends the run as KILLED. Another must not end the ending: Ray sends SIGTERM to every process of a job,
    and its supervisor passes it on."""

    def stop(*_: Any) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped

    for each in signals:
        if signal.getsignal(each) is not signal.SIG_IGN:  # as a shell's background jobs are given it, and nohup
            signal.signal(each, stop)


def _as_ours(error: M3Error | OSError) -> M3Error:
    if isinstance(error, M3Error):
        return error
    if is_disk_full(error):
        return StorageFull(f"there must be free space where the job writes: {error}")
    raise error


def _with_dashes(argument: str) -> str:
    """`--n_estimators` is `--n-estimators`: scripts of the classic command line go on working."""
    return re.sub(r"^--[a-z0-9_]+", lambda option: option[0].replace("_", "-"), argument)


def main(arguments: list[str] | None = None) -> None:
    """Run `m3`. A user's mistake ends in one message and an exit code, never in a traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        taken = [] if given[:1] in (["job"], ["attempt"]) else environment.load(Path.cwd())
        app(args=[_with_dashes(argument) for argument in given], obj=taken)
    except (M3Error, OSError) as error:
        ours = _as_ours(error)
        print(f"error: {ours}", file=sys.stderr)
        sys.exit(ours.exit_code)
    except (Stopped, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        sys.exit(Stopped.exit_code)
