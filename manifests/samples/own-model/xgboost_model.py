"""A model of your own: gradient boosting by xgboost's own interface, in which the risk may only rise with some features.

    PYTHONPATH=manifests/samples/own-model m3 run -f manifests/samples/own-model/trainingjob.yaml

In a cluster the file is part of the image that `spec.image` names, or a ConfigMap in `ray.head.volumes` with its folder as
PYTHONPATH in `ray.head.env`. m3_trainer.base_model says what each method owes; whoever loads the model allows its module:
`m3 predict … --allow-module xgboost_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import xgboost

from m3_trainer.base_model import BaseModel

FILE = "model.ubj"


class RisingXGBoost(BaseModel):
    """Trees that never let a transaction look safer because one of the features `rising` is larger."""

    def __init__(
        self,
        rounds: int = 100,
        max_depth: int = 3,
        learning_rate: float = 0.3,
        rising: tuple[str, ...] = (),
        random_state: int = 0,
        n_jobs: int = 1,
    ) -> None:
        self.rounds = rounds
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.rising = rising
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, features: pd.DataFrame, target: pd.Series, sample_weight: np.ndarray | None = None) -> Self:
        if unknown := [name for name in self.rising if name not in features.columns]:
            raise ValueError(f"rising must name features, {unknown[0]} is none")
        parameters = {
            "objective": "binary:logistic",
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "monotone_constraints": dict.fromkeys(self.rising, 1),
            "seed": self.random_state,
            "nthread": self.n_jobs,
        }
        rows = xgboost.DMatrix(features, label=target, weight=sample_weight)
        self.booster_ = xgboost.train(parameters, rows, self.rounds)
        return self

    def predict_proba(self, features: pd.DataFrame) -> np.ndarray:
        positive = self.booster_.predict(xgboost.DMatrix(features))
        return np.column_stack([1 - positive, positive])

    def save(self, folder: Path) -> None:
        self.booster_.save_model(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        model = cls()
        model.booster_ = xgboost.Booster(model_file=folder / FILE)
        return model
