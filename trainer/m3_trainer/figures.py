"""The pictures of a run. Each is drawn without pyplot, which keeps figures for a window that nobody has opened."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from m3_trainer.evaluate import Scored

SHOWN_FEATURES = 20
MAX_LABEL = 40
MAX_POINTS = 2_000
BINS = 5
MARGINS = {"left": 0.11, "right": 0.97, "bottom": 0.13, "top": 0.92}
MAIN, SECOND, THIRD, PALE = "#2b6cb0", "#c05621", "#2f855a", "#a0aec0"


def png(figure: Any) -> bytes:
    """The figure as a PNG of 110 dots an inch."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a column may be named in a script that the font has not
        figure.savefig(file, format="png", dpi=110, pil_kwargs={"compress_level": 2})
    return file.getvalue()


@contextmanager
def _axes(width: float = 6.0, height: float = 4.2, is_fitted: bool = False) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes. `$` in a column's name begins no formula. Only where the labels are the user's are the axes fitted
    to them: elsewhere the margins are fixed, so that pictures beside each other line up.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False, "font.size": 10, "axes.titlesize": 11}):
        figure = Figure(figsize=(width, height), layout="tight" if is_fitted else None)
        axes = figure.subplots(gridspec_kw=None if is_fitted else MARGINS)
        axes.spines[["top", "right"]].set_visible(False)
        yield figure, axes


def importance(shares: Mapping[str, float], deviations: Mapping[str, float] | None, title: str, axis: str) -> Any:
    """A bar for each of the most important features; `shares` come highest first."""
    names = list(shares)[:SHOWN_FEATURES][::-1]
    errors = [deviations[name] for name in names] if deviations else None
    with _axes(7.0, 1.1 + 0.28 * len(names), is_fitted=True) as (figure, axes):
        places = range(len(names))
        axes.barh(places, [shares[name] for name in names], xerr=errors, color=MAIN, ecolor=PALE, capsize=2)
        axes.set_yticks(places, [_short(name) for name in names])
        axes.set(xlabel=axis, title=title)
    return figure


def precision_recall(rows: Scored, average: float, threshold: float) -> Any:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(rows.target, rows.score, drop_intermediate=True)
    told = rows.score >= threshold
    with _axes() as (figure, axes):
        axes.step(*_thinned(recall, precision), where="post", color=MAIN, label=f"average precision {average:.3f}")
        axes.axhline(rows.target.mean(), color=PALE, linestyle="--", label=f"at random {rows.target.mean():.3f}")
        if told.any():
            found = (rows.target[told] == 1).sum()
            point = [found / rows.target.sum()], [found / told.sum()]
            axes.plot(*point, "o", color=SECOND, label=f"at threshold {threshold:.3g}")
        axes.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1.01), ylim=(0, 1.03))
        axes.legend(frameon=False)
    return figure


def roc(rows: Scored, area: float) -> Any:
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(rows.target, rows.score)
    with _axes() as (figure, axes):
        axes.plot(*_thinned(false, true), color=MAIN, label=f"area {area:.3f}")
        axes.plot([0, 1], [0, 1], color=PALE, linestyle="--", label="at random")
        axes.set(xlabel="false positive rate", ylabel="true positive rate (recall)", title="ROC")
        axes.set(xlim=(-0.01, 1), ylim=(0, 1.01))
        axes.legend(frameon=False, loc="lower right")
    return figure


def calibration(rows: Scored) -> Any:
    """Predicted against observed share of positives, with Wilson's interval."""
    mean, share, count = calibration_bins(rows)
    low, high = _wilson(share, count)
    with _axes() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=PALE, linestyle="--", label="perfectly calibrated")
        axes.errorbar(
            mean, share, [share - low, high - share], fmt="o-", color=MAIN, ecolor=PALE, capsize=2, label="test rows"
        )
        axes.set(xlabel="mean probability", ylabel="share of positives", title="Calibration")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(frameon=False, loc="upper left")
    return figure


def calibration_bins(rows: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean score, share of positives and number of rows of each bin.

    Borders are fifths of all rows and fifths of the positives: with rare positives, bins of equally many rows would all lie at
    zero, and bins of equal width would hold next to none.
    """
    parts = np.linspace(0, 1, BINS + 1)
    positive = rows.score[rows.target == 1]
    borders = np.unique(np.concatenate([np.quantile(rows.score, parts), np.quantile(positive, parts)]))
    place = np.clip(np.searchsorted(borders, rows.score, side="right") - 1, 0, max(len(borders) - 2, 0))
    count = np.bincount(place)
    full = count > 0
    sums = np.bincount(place, rows.score), np.bincount(place, rows.target)
    return sums[0][full] / count[full], sums[1][full] / count[full], count[full]


def _wilson(share: np.ndarray, count: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval (1927) for a share of `count`; it never leaves 0 to 1 nor the share itself."""
    scale = 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.minimum(middle - half, share), np.maximum(middle + half, share)


def thresholds(rows: Scored, threshold: float) -> Any:
    """Precision, recall and F1 over the threshold."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, border = precision_recall_curve(rows.target, rows.score, drop_intermediate=True)
    total = precision[:-1] + recall[:-1]
    f1 = np.divide(2 * precision[:-1] * recall[:-1], total, out=np.zeros_like(total), where=total > 0)
    with _axes() as (figure, axes):
        for values, name, colour in (
            (precision[:-1], "precision", MAIN),
            (recall[:-1], "recall", SECOND),
            (f1, "F1", THIRD),
        ):
            axes.plot(*_thinned(border, values), color=colour, label=name)
        axes.axvline(threshold, color=PALE, linestyle="--", label=f"threshold {threshold:.3g}")
        axes.set(xlabel="threshold", xlim=(0, 1), ylim=(0, 1.03))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=4)
    return figure


def confusion(table: np.ndarray, threshold: float) -> Any:
    """Counts, shape (2, 2): row is the truth, column what the model says; the colour is the share of the row."""
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    with _axes(4.6, 4.2) as (figure, axes):
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(2, 2):
            text = f"{table[row, column]:,}\n{share[row, column]:.1%}"
            axes.text(
                column, row, text, ha="center", va="center", color="white" if share[row, column] > 0.5 else "black"
            )
        axes.set(xticks=[0, 1], yticks=[0, 1], xlabel=f"model says (from {threshold:.3g})", ylabel="truth")
        axes.set_title("Confusion matrix")
        axes.spines[:].set_visible(False)
    return figure


def _thinned(*lines: np.ndarray) -> list[np.ndarray]:
    """No more points than a picture can show."""
    length = len(lines[0])
    if length <= MAX_POINTS:
        return list(lines)
    kept = np.unique(np.linspace(0, length - 1, MAX_POINTS).astype(int))
    return [line[kept] for line in lines]


def _short(name: str) -> str:
    return name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "…"
