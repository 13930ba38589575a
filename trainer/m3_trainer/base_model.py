"""The base of a model of your own: what M3 asks of a class named in `model.type` as `package.module:Class`.

    class Rules(BaseModel):
        def __init__(self, limit: float = 200.0, random_state: int = 0) -> None:
            self.limit, self.random_state = limit, random_state

        def fit(self, features, target, sample_weight=None):
            self.share_ = float(target[features["TX_AMOUNT"] > self.limit].mean())
            return self

        def predict_proba(self, features):
            positive = (features["TX_AMOUNT"] > self.limit).to_numpy() * self.share_
            return np.column_stack([1 - positive, positive])

        def save(self, folder):
            (folder / "rules.json").write_text(json.dumps({"limit": self.limit, "share": self.share_}))

        @classmethod
        def load(cls, folder):
            kept = json.loads((folder / "rules.json").read_text())
            rules = cls(kept["limit"])
            rules.share_ = kept["share"]
            return rules

The hyperparameters are the parameters of `__init__`, which only keeps them (scikit-learn's convention: `get_params` and
`set_params` come with it). `random_state` is set to `model.randomState`, and `n_jobs` to the job's CPUs, where `__init__` has
them. manifests/samples/own-model has a whole example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin


class BaseModel(ClassifierMixin, BaseEstimator, ABC):
    """A classifier of two classes that stores itself."""

    @abstractmethod
    def fit(self, features: pd.DataFrame, target: pd.Series, sample_weight: np.ndarray | None = None) -> Self:
        """Learn from `features`, shape (n, m), float64 with NaN where a value is missing, and `target`, n times 0 or 1.

        The columns of `features.categorical` come first, each name as a number from 0; one that training had not is NaN.
        `sample_weight`, shape (n,), is given where the file sets `classWeight` or `positiveWeight`; a class that has no such
        parameter is refused then.
        """

    @abstractmethod
    def predict_proba(self, features: pd.DataFrame) -> np.ndarray:
        """Probabilities of class 0 and class 1, shape (n, 2), each from 0 to 1, for features named as in `fit`."""

    def predict(self, features: pd.DataFrame) -> np.ndarray:
        """The likelier class of each row, shape (n,): scikit-learn's tools ask for it, M3 has its threshold."""
        return (self.predict_proba(features)[:, 1] >= 0.5).astype(int)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that `load` needs into an empty folder, in formats that run no code when they are read: no pickle."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """The model that `save` has written."""
