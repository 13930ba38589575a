"""The sample TrainingJob's training as a bare script: what `make bench-overhead` holds `m3 run` against.

The same rows (M3's generator stands for reading a file), the same columns, split, forest and metrics; nothing is tracked.
"""

import json
import time

from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from m3_trainer.data.sample import transactions

frame = transactions(rows=200_000, seed=7)
target = frame["TX_FRAUD"]
features = frame.drop(columns=["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_FRAUD"]).astype(float)
border = len(frame) - round(len(frame) * 0.2)
forest = RandomForestClassifier(n_estimators=100, max_depth=10, random_state=42, n_jobs=-1)
start = time.perf_counter()
forest.fit(features.iloc[:border], target.iloc[:border])
seconds = time.perf_counter() - start
score, truth = forest.predict_proba(features.iloc[border:])[:, 1], target.iloc[border:]
metrics = {
    "average_precision": average_precision_score(truth, score),
    "roc_auc": roc_auc_score(truth, score),
    "precision": precision_score(truth, score >= 0.5),
    "recall": recall_score(truth, score >= 0.5),
}
print(json.dumps({"metrics": metrics, "seconds": {"fit": seconds}}))
