"""The Handbook's chapter 3 over its five months, as a user of pandas and scikit-learn writes it: what `make bench-pipeline` holds
M3 against. Fifteen features of every row by `groupby` and `rolling`, then scikit-learn's default forest.

Usage: python benchmarks/pandas_pipeline.py TRANSACTIONS.parquet week|all
"""

import json
import sys

import pandas as pd
from harness import reading, told
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

DAYS, DELAY_DAYS = (1, 7, 30), 7
RAW = ["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD"]

start = reading()
frame = pd.read_parquet(sys.argv[1], columns=RAW)
loaded = reading()

frame["TX_DURING_WEEKEND"] = (frame["TX_DATETIME"].dt.day_of_week >= 5).astype(int)
frame["TX_DURING_NIGHT"] = (frame["TX_DATETIME"].dt.hour <= 6).astype(int)
# what `rolling` gives is in the order of the groups
frame = frame.sort_values(["CUSTOMER_ID", "TX_DATETIME"], kind="stable", ignore_index=True)
for days in DAYS:
    spent = frame.groupby("CUSTOMER_ID").rolling(f"{days}D", on="TX_DATETIME")["TX_AMOUNT"]
    frame[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"] = spent.count().to_numpy()
    frame[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"] = spent.mean().to_numpy()
frame = frame.sort_values(["TERMINAL_ID", "TX_DATETIME"], kind="stable", ignore_index=True)
unknown = frame.groupby("TERMINAL_ID").rolling(f"{DELAY_DAYS}D", on="TX_DATETIME")["TX_FRAUD"]
unknown_count, unknown_frauds = unknown.count().to_numpy(), unknown.sum().to_numpy()
for days in DAYS:
    window = frame.groupby("TERMINAL_ID").rolling(f"{DELAY_DAYS + days}D", on="TX_DATETIME")["TX_FRAUD"]
    count, frauds = window.count().to_numpy() - unknown_count, window.sum().to_numpy() - unknown_frauds
    frame[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"] = count
    frame[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"] = pd.Series(frauds / count).fillna(0)
frame = frame.sort_values("TRANSACTION_ID", ignore_index=True)
prepared = reading()

features = [name for name in frame if name not in RAW] + ["TX_AMOUNT"]
if sys.argv[2] == "week":
    train = frame[frame["TX_DATETIME"].between("2018-07-25", "2018-08-01", inclusive="left")]
    test = frame[frame["TX_DATETIME"].between("2018-08-08", "2018-08-15", inclusive="left")]
else:
    border = len(frame) - round(len(frame) * 0.2)
    train, test = frame.iloc[:border], frame.iloc[border:]
forest = RandomForestClassifier(random_state=0)
forest.fit(train[features], train["TX_FRAUD"])
fitted = reading()

score = forest.predict_proba(test[features])[:, 1]
metrics = {
    "average_precision": average_precision_score(test["TX_FRAUD"], score),
    "roc_auc": roc_auc_score(test["TX_FRAUD"], score),
}
steps = {
    "load": (start, loaded),
    "features": (loaded, prepared),
    "fit": (prepared, fitted),
    "evaluate": (fitted, reading()),
}
print(json.dumps(told(metrics, steps)))
