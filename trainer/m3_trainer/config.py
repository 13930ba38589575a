"""The workload: what to train, on what, how it is judged, where it is written.

The same models are the workload part of a TrainingJob's spec, a plain file for `m3 train --config`, and what the job in the
cluster receives. Only pydantic is imported here: the operator reads this module, and its image has no scikit-learn.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

from m3_trainer.hyperparameters import BOOSTED, BUILT_IN, KNOWN, STOPPING, WEIGHTS, refusal
from m3_trainer.schema import Model, Must, Rule, at_most_one_of, exactly_one_of

CONTROL = r"\x00-\x1f\x7f"
"""Line breaks, tabs and characters that no terminal shows, for a class in a pattern."""
Column = Annotated[
    str,
    Field(min_length=1, max_length=256),
    Must(f"^[^{CONTROL}]+$", "must be the name of a column, without line breaks and other control characters"),
]
Columns = Annotated[tuple[Column, ...], Field(max_length=1024)]
Name = Annotated[
    str,
    Field(min_length=1, max_length=250),
    Must(
        f"^[^./: {CONTROL}]([^/:{CONTROL}]*[^/: {CONTROL}])?$",
        "must have no `/`, no `:`, no line break, no `.` first and no space first or last",
    ),
]
# A value that is a number, a text, true, a list or null has no structural schema: the API server keeps it as it is,
# and the model type says in Python whether it fits.
Value = Annotated[JsonValue, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]

_WORD = "[A-Za-z_][A-Za-z0-9_]*"
CLASS_PATH = f"^{_WORD}([.]{_WORD})*:{_WORD}$"
MAX_WORKLOAD_BYTES = 64 * 1024
MAX_JOB_NAME = 38
"""A RayJob's name has at most 47 characters; `-<4 hex of the uid>-<attempt>` needs the rest."""
SQL_SCHEMES = ("postgresql", "mysql", "mssql", "oracle", "sqlite")
URI_SCHEMES = ("file", "s3", "gs", "http", "https", "sample", *SQL_SCHEMES)
SQL_URL = f"^({'|'.join(SQL_SCHEMES)})([+][a-z0-9]+)?://"
KNOWN_URL = f"^({'|'.join(URI_SCHEMES)})([+][a-z0-9]+)?://"
ANY_SCHEME = "^[A-Za-z][-A-Za-z0-9+.]+:"
"""Of two characters at least: C:/ is a path."""
STORE_URL, STORED_OBJECT = "^(s3|gs|https?)://", "^(s3|gs|https?)://[^/?#]+/[^?#]"
FILE_ENDING = "(?i)([.](csv|csv[.]gz|tsv|parquet|pq)([?#].*)?|/)$"
"""A folder ends in /: its files' endings then say what they are."""
MANY_OVER_HTTP = "^https?://([^?#]*[*]|[^?#]*/([?#]|$))"
PASSWORD_INSIDE = "(?i)^[^/]+://([^/?#@]*:[^/?#]*@|.*[?&](password|passwd|pwd)=)"  # noqa: S105 - a pattern
_OPTION = "((rows|days)=[1-9][0-9]{0,8}|seed=[0-9]{1,9})"
SAMPLE_URL = f"^sample://transactions([?]{_OPTION}(&{_OPTION})*)?$"

Metric = Literal[
    "average_precision", "roc_auc", "precision", "recall", "f1", "log_loss", "brier_score", "card_precision_at_k"
]

DEFAULT_THRESHOLD = 0.5

LOSSES = ("log_loss", "brier_score")
"""Metrics of which less is better."""


class SecretRef(Model):
    name: Annotated[
        str,
        Field(min_length=1, max_length=253),
        Must(
            r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
            "must be a name of Kubernetes: lower-case letters, digits, `-` and `.`, as `data-credentials`",
        ),
    ]
    """Name of a Secret in the job's namespace; each of its keys becomes an environment variable of the job's pods."""


class Data(Model):
    rules = (
        Rule(
            cel=f"!has(self.query) || self.uri.matches('{SQL_URL}')",
            message=f"`query` must be set only with a SQL URL in `uri` ({', '.join(SQL_SCHEMES)})",
            check=lambda data: data.query is None or data.is_sql,
        ),
        Rule(
            cel=f"has(self.query) || !self.uri.matches('{SQL_URL}')",
            message="`query` must be set with a SQL URL in `uri`, as `select * from transactions`",
            check=lambda data: data.query is not None or not data.is_sql,
        ),
        Rule(
            cel=f"!(self.uri.contains('://') || self.uri.matches('{ANY_SCHEME}')) || self.uri.matches('{KNOWN_URL}')",
            message=f"`uri` must be a path, or a URL that begins with one of {', '.join(URI_SCHEMES)}, and `://`",
            check=lambda data: (
                not ("://" in data.uri or re.match(ANY_SCHEME, data.uri)) or re.match(KNOWN_URL, data.uri) is not None
            ),
        ),
        Rule(
            cel=f"!self.uri.startsWith('sample:') || self.uri.matches('{SAMPLE_URL}')",
            message="a sample's `uri` must be as sample://transactions?rows=200000&seed=7, with whole numbers, `rows` and "
            "`days` from 1",
            check=lambda data: not data.uri.startswith("sample:") or re.fullmatch(SAMPLE_URL, data.uri) is not None,
        ),
        Rule(
            cel=f"!self.uri.matches('{MANY_OVER_HTTP}')",
            message="`uri` must name one file where it begins with http:// or https://: a web server has no folders to look into",
            check=lambda data: re.match(MANY_OVER_HTTP, data.uri) is None,
        ),
        Rule(
            cel=f"!self.uri.matches('{PASSWORD_INSIDE}')",
            message="`uri` must hold no password: it is read from the environment, in the cluster from `secretRef`; for a "
            "database as DATABASE_PASSWORD",
            check=lambda data: re.match(PASSWORD_INSIDE, data.uri) is None,
        ),
        Rule(
            cel=f"!self.uri.matches('{STORE_URL}') || self.uri.matches('{STORED_OBJECT}')",
            message="`uri` must name a file, or a folder, in its store, as s3://bucket/transactions.parquet",
            check=lambda data: not re.match(STORE_URL, data.uri) or re.match(STORED_OBJECT, data.uri) is not None,
        ),
        Rule(
            cel=f"has(self.format) || self.uri.startsWith('sample:') || self.uri.matches('{SQL_URL}')"
            f" || self.uri.matches('{FILE_ENDING}')",
            message="`format` must be set to csv or parquet where `uri` does not end in .csv, .csv.gz, .tsv, .parquet or .pq, "
            "or, for a folder, in /",
            check=lambda data: (
                data.format is not None or not data.is_file or re.search(FILE_ENDING, data.uri) is not None
            ),
        ),
        Rule(
            cel=f"!has(self.format) || (!self.uri.startsWith('sample:') && !self.uri.matches('{SQL_URL}'))",
            message="`format` must be left out with a SQL URL or a sample: it says how to read a file",
            check=lambda data: data.format is None or data.is_file,
        ),
        *(
            Rule(
                cel=f"!has(self.{to_camel(one)}) || !has(self.{to_camel(other)})"
                f" || self.{to_camel(one)} != self.{to_camel(other)}",
                message=f"`{to_camel(one)}` must be another column than `{to_camel(other)}`",
                check=lambda data, one=one, other=other: (
                    getattr(data, one) is None or getattr(data, one) != getattr(data, other)
                ),
            )
            for one, other in (
                ("time_column", "target"),
                ("customer_column", "target"),
                ("time_column", "customer_column"),
            )
        ),
    )

    uri: Annotated[
        str,
        Field(min_length=1, max_length=2048),
        Must(
            f"^[^ {CONTROL}]([^{CONTROL}]*[^ {CONTROL}])?$",
            "must be one line, without a space first or last: a path or a URL",
        ),
    ]
    """Where the rows are: a path, or a URL of scheme file, s3, gs, http or https to CSV (plain or gz) or Parquet; but over http
    also a folder of such files, as `s3://bucket/transactions/`, or a pattern, as `data/2018-*.parquet`; a SQL URL together with
    `query`; or `sample://transactions?rows=200000&seed=7`, which is generated where the job runs. A password never stands here:
    S3's is AWS_SECRET_ACCESS_KEY in the environment, a database's DATABASE_PASSWORD."""
    format: Literal["csv", "parquet"] | None = None
    """Format of the rows; by default the ending of the path, or of a folder's files, decides."""
    query: (
        Annotated[
            str,
            Field(min_length=1, max_length=16384),
            Must(rf"^[^\x00]*[^ {CONTROL}][^\x00]*$", "must be a statement of SQL"),
        ]
        | None
    ) = None
    """SQL that selects the rows, a `select` whose columns have names of their own; with a SQL URL only. It is read in the order
    of all its columns, in parts."""
    target: Column
    """Column to predict: 0 or 1, both present."""
    time_column: Column | None = None
    """Column with the time of each row. Where it is set, the model is trained on the past and tested on the future."""
    customer_column: Column | None = None
    """Column that names the customer (the card) of each row: needed for `card_precision_at_k`; never a feature."""
    sample_size: Annotated[int, Field(ge=2, le=10_000_000_000)] | None = None
    """Train on this many rows, drawn at random with the model's `randomState`, when memory is short; all rows by default."""
    secret_ref: SecretRef | None = None
    """Credentials of the source, given to the job's pods as environment variables (in the cluster only): AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, GOOGLE_CREDENTIALS (the key's JSON), or DATABASE_USER and DATABASE_PASSWORD."""
    expected_digest: (
        Annotated[
            str,
            Field(max_length=71),
            Must(r"^sha256:[0-9a-f]{64}$", "must be `sha256:` and 64 digits or letters a to f, as a run logs it"),
        ]
        | None
    ) = None
    """Digest that the data must have, as the run of that data has logged it (tag `m3.data.digest`); other data is refused. Of
    files it is the sha256 over sorted lines of path and sha256 of the content, of a query that of its rows in Arrow's format."""

    @property
    def scheme(self) -> str:
        scheme = urlsplit(self.uri).scheme.split("+")[0]
        return scheme if len(scheme) > 1 else "file"

    @property
    def is_sql(self) -> bool:
        return re.match(SQL_URL, self.uri) is not None

    @property
    def is_file(self) -> bool:
        return not self.is_sql and not self.uri.startswith("sample:")


Statistic = Literal["count", "sum", "mean", "min", "max", "risk", "ratio"]
CalendarPart = Literal["weekend", "night", "hour", "dayOfWeek", "dayOfMonth", "month"]


class Window(Model):
    rules = (
        Rule(
            cel="has(self.of) || !has(self.statistics) || self.statistics.all(one, one == 'count')",
            message="`of` must be set for every statistic but count",
            check=lambda window: window.of is not None or set(window.statistics or ()) <= {"count"},
        ),
    )

    key: Column
    """Column whose rows belong together, as the customer's or the terminal's. Rows without a value there have no window."""
    of: Column | None = None
    """Column of numbers, or the target, that the statistics are of."""
    days: Annotated[tuple[Annotated[int, Field(ge=1, le=3650)], ...], Field(min_length=1, max_length=16)] | None = None
    """Lengths of the window in days, each with features of its own; left out, the window is all of the past."""
    delay_days: Annotated[int, Field(ge=0, le=3650)] = 0
    """Days before the row at which the window ends: what labels need to become known. At least 1 where `of` is the target."""
    own_row: bool = True
    """Whether the row itself is in its window, as in the Fraud Detection Handbook; with `delayDays` it never is."""
    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1, max_length=16)] | None = None
    """What to compute over the window: the `count` of its rows; `sum`, `mean`, `min` and `max` of `of`; `risk`, which is the
    mean, as the share of frauds, and 0 where there is none; `ratio`, the row's own value ÷ the mean. By default count, and mean
    or, of the target, risk."""


class Features(Model):
    rules = (
        at_most_one_of("include", "exclude"),
        *(
            Rule(
                cel=f"!has(self.{first}) || !has(self.{other}) || !self.{first}.exists(name, name in self.{other})",
                message=f"a column must not stand in both `{first}` and `{other}`",
                check=lambda features, first=first, other=other: (
                    not (set(getattr(features, first) or ()) & set(getattr(features, other) or ()))
                ),
            )
            for first, other in (("categorical", "exclude"), ("dates", "exclude"), ("categorical", "dates"))
        ),
    )

    include: Annotated[Columns, Field(min_length=1)] | None = None
    """Columns of the data to learn from, and no others; by default every numeric column that no other field names, but for
    `of`. The features of the other fields come in addition."""
    exclude: Columns | None = None
    """Columns never to learn from (identifiers, what is known only afterwards); the target, time and customer columns, and the
    keys of windows, are none by default."""
    categorical: Annotated[tuple[Column, ...], Field(max_length=64)] | None = None
    """Columns to learn from whose values are names, as a country or a code, even if written as numbers."""
    dates: Annotated[tuple[Column, ...], Field(max_length=64)] | None = None
    """Columns to learn from that hold dates or times, as a birthday: as days from there to the row's time (`data.timeColumn`), or
    since 1970 where none is set."""
    calendar: Annotated[tuple[CalendarPart, ...], Field(max_length=16)] | None = None
    """Parts of the row's time (`data.timeColumn`, in UTC where it has a zone) to learn from: `weekend` and `night` (until 6:59)
    as 0 or 1, `hour`, `dayOfWeek` (0 is Monday), `dayOfMonth`, `month`."""
    windows: Annotated[tuple[Window, ...], Field(max_length=64)] | None = None
    """Statistics over the rows of the same customer, terminal, … in trailing windows of time, never of later rows."""


class EarlyStopping(Model):
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    """Stop adding trees when this many in a row have made the metric no better; the hyperparameter `n_estimators` (`max_iter`)
    is the most there can be."""
    metric: Literal["average_precision", "roc_auc", "log_loss"] = "average_precision"
    """Metric on the validation rows that has to become better."""


class ModelSpec(Model):
    rules = (
        Rule(
            cel=f"self.type in {list(BUILT_IN)} || self.type.matches('{CLASS_PATH}')",
            message=f"`type` must be one of {', '.join(BUILT_IN)}, or a class of your own as `package.module:Class`",
            check=lambda model: model.type in BUILT_IN or re.fullmatch(CLASS_PATH, model.type) is not None,
        ),
        Rule(
            cel="!has(self.classWeight) || !has(self.positiveWeight)",
            message="at most one of `classWeight`, `positiveWeight` must be set",
            check=lambda model: model.class_weight is None or model.positive_weight is None,
        ),
        Rule(
            cel=f"!has(self.earlyStopping) || self.type in {list(BOOSTED)}",
            message=f"`earlyStopping` must be left out but for {', '.join(BOOSTED)}, which add tree after tree",
            check=lambda model: model.early_stopping is None or model.type in BOOSTED,
        ),
    )

    type: Annotated[str, Field(min_length=1, max_length=256)] = "random_forest"
    """Type of model: random_forest, decision_tree, logistic_regression, hist_gradient_boosting, xgboost, lightgbm, or a class
    of your own as `package.module:Class`."""
    random_state: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """Seed of everything random in the job: the same file gives the same metrics on a laptop and in the cluster."""
    hyperparameters: Annotated[dict[Annotated[str, Field(max_length=64)], Value], Field(max_length=64)] = {}
    """Hyperparameters by the library's own names, as `{n_estimators: 100, max_depth: 20}`."""
    class_weight: Literal["balanced"] | None = None
    """`balanced`: both classes count the same in all, however rare one is. By default each row counts the same."""
    positive_weight: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """How many times a row of class 1 counts as much as one of class 0."""
    calibration: Literal["isotonic", "sigmoid"] | None = None
    """Map the model's scores to probabilities, as the validation rows have them: `sigmoid` (Platt's, for few rows) or
    `isotonic` (any rising curve, for some thousand rows)."""
    early_stopping: EarlyStopping | None = None
    """Stop adding trees when the validation rows say so (hist_gradient_boosting, xgboost, lightgbm)."""

    @model_validator(mode="after")
    def _known_hyperparameters(self) -> ModelSpec:
        if self.type not in KNOWN:
            return self
        faults = [refusal(self.type, self.hyperparameters), self._said_twice()]
        if any(faults):
            raise ValueError("; ".join(filter(None, faults)))
        return self

    def _said_twice(self) -> str | None:
        fields = {
            "`classWeight`": (self.class_weight, WEIGHTS),
            "`positiveWeight`": (self.positive_weight, WEIGHTS),
            "`earlyStopping`": (self.early_stopping, STOPPING),
        }
        twice = [
            f"hyperparameter `{name}` must be left out where {field} is set"
            for field, (value, names) in fields.items()
            for name in names
            if value is not None and name in self.hyperparameters
        ]
        return "; ".join(twice) or None


class Split(Model):
    rules = (
        Rule(
            cel="self.trainStart >= timestamp('1900-01-01T00:00:00Z') && self.trainStart < timestamp('2200-01-01T00:00:00Z')",
            message="`trainStart` must be a day from 1900-01-01 to 2199-12-31",
            check=lambda split: 1900 <= split.train_start.year < 2200,
        ),
    )

    train_start: date
    """First day of the training rows, as 2018-07-25."""
    train_days: Annotated[int, Field(ge=1, le=36500)]
    """Length of the training period in days."""
    delay_days: Annotated[int, Field(ge=0, le=36500)] = 0
    """Days between the training and the test period: what labels need to become known."""
    test_days: Annotated[int, Field(ge=1, le=36500)]
    """Length of the test period in days."""
    validation_days: Annotated[int, Field(ge=1, le=36500)] | None = None
    """Days at the end of the training period to validate on, `delayDays` after the last row that is learnt from: needed for
    `model.calibration`, `model.earlyStopping` and `evaluation.thresholdFor`."""
    exclude_known: Column | None = None
    """Column of the card: cards already known as fraudulent are dropped from the test rows. Known are those with a fraud in
    the training rows and, for the d-th test day, those with a fraud up to `delayDays` before it."""

    @model_validator(mode="after")
    def _leaves_days_to_learn_from(self) -> Split:
        """In Python alone: CEL cannot read a whole number that was sent as 7.0, and would refuse it in words of its own."""
        if self.validation_days is not None and self.train_days <= self.delay_days + self.validation_days:
            raise ValueError(
                "`trainDays` must be more than `delayDays` and `validationDays` together: the last of them validate, and before "
                "those labels need the delay to become known"
            )
        return self


class Folds(Model):
    count: Annotated[int, Field(ge=2, le=50)]
    """Number of folds: `split` itself, and this many less one that lie before it."""
    step_days: Annotated[int, Field(ge=1, le=3650)]
    """Days by which each fold lies before the one after it."""


class Training(Model):
    rules = (
        at_most_one_of("test_size", "split"),
        at_most_one_of("validation_size", "split"),
        Rule(
            # `folds` first: CEL does not take 3.0 for a whole number, and need not look at it where there are no `folds`
            cel="!has(self.folds) || !has(self.cvFolds)",
            message="at most one of `cvFolds`, `folds` must be set",
            check=lambda training: training.folds is None or training.cv_folds is None,
        ),
        Rule(
            cel="!has(self.folds) || has(self.split)",
            message="`split` must be set where `folds` is: the folds are that split, moved back in time",
            check=lambda training: training.folds is None or training.split is not None,
        ),
    )

    test_size: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the rows to test on: the latest where `data.timeColumn` is set, else drawn at random with equal share of the
    classes. 0.2 where neither this nor `split` is set."""
    validation_size: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training rows to validate on, and not to learn from: the latest where `data.timeColumn` is set, else drawn
    as the test rows are. 0.2 where this is not set and `model.calibration`, `model.earlyStopping` or `evaluation.thresholdFor`
    is; with `split`, set `split.validationDays`."""
    cv_folds: Annotated[int, Field(ge=2, le=50)] | None = None
    """Also cross-validate on the training rows with this many folds; for each metric `cv_<metric>_mean` and `_std`."""
    split: Split | None = None
    """Train and test on periods of days instead; needs `data.timeColumn`."""
    folds: Folds | None = None
    """Also train and test on `split` moved back in time (prequential validation); for each metric `cv_<metric>_mean` and
    `_std` over all of them."""


class Cost(Model):
    false_positive: Annotated[float, Field(gt=0, le=1_000_000_000)]
    """What it costs to act on a row of class 0."""
    false_negative: Annotated[float, Field(gt=0, le=1_000_000_000)]
    """What it costs to miss a row of class 1."""


class ThresholdFor(Model):
    rules = (exactly_one_of("precision", "recall", "cost"),)

    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    """The highest recall with at least this precision."""
    recall: Annotated[float, Field(gt=0, le=1)] | None = None
    """The highest precision with at least this recall."""
    cost: Cost | None = None
    """The least cost in all."""


class Evaluation(Model):
    rules = (
        Rule(
            cel="self.threshold == 0.5 || !has(self.thresholdFor)",
            message="`threshold` must be left out where `thresholdFor` is set: it is then chosen on the validation rows",
            check=lambda evaluation: evaluation.threshold == DEFAULT_THRESHOLD or evaluation.threshold_for is None,
        ),
    )

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=16)] = (
        "average_precision",
        "roc_auc",
        "precision",
        "recall",
    )
    """Metrics to compute on the test rows, the most important first: that one is shown by `kubectl get`."""
    threshold: Annotated[float, Field(ge=0, le=1)] = DEFAULT_THRESHOLD
    """Probability from which a row counts as positive, for precision, recall and f1."""
    threshold_for: ThresholdFor | None = None
    """Choose the threshold on the validation rows instead, for a precision, a recall or the least cost."""
    top_k: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Cards looked at per day, for `card_precision_at_k`."""
    segments: Annotated[tuple[Column, ...], Field(min_length=1, max_length=16)] | None = None
    """Columns by whose values the metrics are also computed: the ten most frequent and all others, or five bins of equally
    many rows where a column has more numbers or times than that."""


class Tracking(Model):
    experiment_name: Name = "fraud_detection"
    """MLflow experiment that the run belongs to; made if it is not there."""


class Promotion(Model):
    rules = (
        Rule(
            cel="!self.alias.matches('^((?i)latest|(?i)v[0-9]+)$')",
            message="`alias` must not be latest or v and a number: MLflow keeps those for itself",
            check=lambda wish: re.fullmatch("latest|v[0-9]+", wish.alias, re.IGNORECASE | re.ASCII) is None,
        ),
        Rule(
            cel=f"(self.mode == 'min') == (self.metric in {list(LOSSES)})",
            message=f"`mode` must be min for {' and '.join(LOSSES)}, of which less is better, and max for every other metric",
            check=lambda wish: (wish.mode == "min") == (wish.metric in LOSSES),
        ),
    )

    alias: Annotated[
        str,
        Field(min_length=1, max_length=250),
        Must(r"^[a-zA-Z][a-zA-Z0-9_-]*$", "must be letters, digits, `-` and `_`, a letter first, as `champion`"),
    ] = "champion"
    """Alias to move to the new version."""
    metric: Metric = "average_precision"
    """Metric that candidate and holder of the alias are compared by, on the same test rows."""
    mode: Literal["max", "min"] = "max"
    """Whether more of the metric is better, or less."""
    min_improvement: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """By how much the candidate must be better."""


class Registry(Model):
    model_name: Name = "fraud_detector"
    """Name under which the model's new version is registered in MLflow."""
    promotion: Promotion | None = None
    """When the new version takes an alias over."""


class Workload(Model):
    """What to train: the workload part of a TrainingJob's spec, and a config file for `m3 train --config`."""

    # The API server makes a map of all of an object's fields at each look at one of them, and looks at each status write, too:
    # so no `has()` of a part that has a default, and first what is most often the end of it.
    rules = (
        Rule(
            cel="!has(self.training.split) || has(self.data.timeColumn)",
            message="`data.timeColumn` must be set where `training.split` is",
            check=lambda job: job.training.split is None or job.data.time_column is not None,
        ),
        Rule(
            cel="!has(self.training.split) || has(self.training.split.validationDays) || !(has(self.model.calibration)"
            " || has(self.model.earlyStopping) || has(self.evaluation.thresholdFor))",
            message="`training.split.validationDays` must be set for `model.calibration`, `model.earlyStopping` and "
            "`evaluation.thresholdFor`: they need rows to validate on",
            check=lambda job: (
                job.training.split is None or job.training.split.validation_days is not None or not job.needs_validation
            ),
        ),
        Rule(
            cel="!has(self.features.include) || !(self.data.target in self.features.include)",
            message="`features.include` must not have the target: the model would be told what it has to find out",
            check=lambda job: job.data.target not in (job.features.include or ()),
        ),
        *(
            Rule(
                cel=f"!has(self.features.include) || !has(self.data.{to_camel(name)})"
                f" || !(self.data.{to_camel(name)} in self.features.include)",
                message=f"`features.include` must not have the column of `data.{to_camel(name)}`: it is never a feature",
                check=lambda job, name=name: getattr(job.data, name) not in (job.features.include or ()),
            )
            for name in ("time_column", "customer_column")
        ),
        *(
            Rule(
                cel=f"!has(self.features.{name}) || (!(self.data.target in self.features.{name})"
                f" && (!has(self.data.timeColumn) || !(self.data.timeColumn in self.features.{name}))"
                f" && (!has(self.data.customerColumn) || !(self.data.customerColumn in self.features.{name})))",
                message=f"`features.{name}` must not have the target, time or customer column of `data`: none is a feature",
                check=lambda job, name=name: (
                    not (
                        {job.data.target, job.data.time_column, job.data.customer_column}
                        & set(getattr(job.features, name) or ())
                    )
                ),
            )
            for name in ("categorical", "dates")
        ),
        *(
            Rule(
                cel=f"!has(self.features.{name}) || has(self.data.timeColumn)",
                message=f"`data.timeColumn` must be set where `features.{name}` is",
                check=lambda job, name=name: getattr(job.features, name) is None or job.data.time_column is not None,
            )
            for name in ("windows", "calendar")
        ),
        Rule(
            cel="!has(self.features.windows) || self.features.windows.all(window, window.key != self.data.target)",
            message="a window's `key` must not be the target: the model would be told what it has to find out",
            check=lambda job: all(window.key != job.data.target for window in job.features.windows or ()),
        ),
        Rule(
            cel="!has(self.features.windows) || self.features.windows.all(window, !has(window.of)"
            " || window.of != self.data.target || (window.delayDays > 0 && (!has(window.statistics)"
            " || !('ratio' in window.statistics))))",
            message="a window of the target must have `delayDays` from 1 and no `ratio`: the row's own label would be in it",
            check=lambda job: all(
                window.delay_days > 0 and "ratio" not in (window.statistics or ()) for window in job.label_windows
            ),
        ),
        Rule(
            cel="!has(self.features.windows) || !has(self.training.split) || self.features.windows.all(window,"
            " !has(window.of) || window.of != self.data.target || window.delayDays >= self.training.split.delayDays)",
            message="a window of the target must have at least the `delayDays` of `training.split`: what labels need to become "
            "known",
            check=lambda job: (
                job.training.split is None
                or all(window.delay_days >= job.training.split.delay_days for window in job.label_windows)
            ),
        ),
        Rule(
            cel="!has(self.training.split) || !has(self.training.split.excludeKnown)"
            " || self.training.split.excludeKnown != self.data.target",
            message="`training.split.excludeKnown` must be the column of the card, not the target",
            check=lambda job: job.training.split is None or job.training.split.exclude_known != job.data.target,
        ),
        Rule(
            cel="!has(self.evaluation.segments) || !(self.data.target in self.evaluation.segments)",
            message="`evaluation.segments` must not have the target: each segment would be of one class",
            check=lambda job: job.data.target not in (job.evaluation.segments or ()),
        ),
        Rule(
            cel="!('card_precision_at_k' in self.evaluation.metrics)"
            " || (has(self.data.timeColumn) && has(self.data.customerColumn))",
            message="`data.timeColumn` and `data.customerColumn` must be set for metric `card_precision_at_k`",
            check=lambda job: (
                "card_precision_at_k" not in job.evaluation.metrics
                or (job.data.time_column is not None and job.data.customer_column is not None)
            ),
        ),
        Rule(
            cel="!has(self.registry.promotion) || self.registry.promotion.metric != 'card_precision_at_k'"
            " || (has(self.data.timeColumn) && has(self.data.customerColumn))",
            message="`data.timeColumn` and `data.customerColumn` must be set to promote by `card_precision_at_k`",
            check=lambda job: (
                job.registry.promotion is None
                or job.registry.promotion.metric != "card_precision_at_k"
                or (job.data.time_column is not None and job.data.customer_column is not None)
            ),
        ),
    )

    data: Data
    """The rows to learn from."""
    features: Features = Features()
    """Which columns are features."""
    model: ModelSpec = ModelSpec()
    """The model and its hyperparameters."""
    training: Training = Training()
    """How rows are divided into training and test."""
    evaluation: Evaluation = Evaluation()
    """How the model is judged on the test rows."""
    tracking: Tracking = Tracking()
    """Where the run is logged."""
    registry: Registry = Registry()
    """Where the model is registered."""

    @model_validator(mode="after")
    def _small(self) -> Workload:
        size = len(self.to_json().encode())
        if size > MAX_WORKLOAD_BYTES:
            raise ValueError(f"the workload must be at most {MAX_WORKLOAD_BYTES} bytes as JSON, is {size}")
        return self

    @property
    def needs_validation(self) -> bool:
        """Whether something is chosen on rows that the model has not learnt from."""
        return bool(self.model.calibration or self.model.early_stopping or self.evaluation.threshold_for)

    @property
    def label_windows(self) -> tuple[Window, ...]:
        """Windows of the target."""
        return tuple(window for window in self.features.windows or () if window.of == self.data.target)

    def to_json(self) -> str:
        """Canonical JSON, camelCase: what the job receives as `M3_WORKLOAD`."""
        return json.dumps(self.dump(), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """sha256 of the canonical JSON: two runs with equal digests were asked the same."""
        return "sha256:" + hashlib.sha256(self.to_json().encode()).hexdigest()


WORKLOAD_FIELDS = frozenset(Workload.model_fields)
"""Fields of a TrainingJob's spec that belong to the workload."""

EXECUTION_FIELDS = frozenset(
    {
        "image", "imagePullSecrets", "serviceAccountName", "storage", "ray", "suspend", "backoffLimit",
        "activeDeadlineSeconds", "preRunningDeadlineSeconds", "ttlSecondsAfterFinished",
    }
)  # fmt: skip
"""Fields of a TrainingJob's spec that say where and how it runs: a laptop has no use for them (`m3_operator.api` owns them)."""


def workload_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The workload part of a TrainingJob's spec, as a document."""
    return {name: value for name, value in spec.items() if name not in EXECUTION_FIELDS}
