"""Simulated card transactions with three patterns of fraud, for a first run that needs no file.

The patterns are those of the Fraud Detection Handbook's simulator (chapter 3): an amount over a limit, a terminal that is
compromised for four weeks, a card that is compromised for two. The column names are the Handbook's too, so that a file written
for this data also fits its published data. Everything is drawn as whole columns: rows cost about a microsecond each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from m3_trainer.config import Window
from m3_trainer.data import windows
from m3_trainer.errors import InvalidSpec

TARGET = "TX_FRAUD"
START = np.datetime64("2026-01-01T00:00:00", "s")
DAY = 86_400

AMOUNT_LIMIT = 220.0
TERMINAL_DAYS, CARD_DAYS = 28, 14
# Share newly compromised per day: the Handbook's 2 of 10,000 terminals and 3 of 5,000 customers.
TERMINAL_RATE, CARD_RATE = 2 / 10_000, 3 / 5_000
TERMINALS_PER_CUSTOMER, TRANSACTIONS_PER_DAY = 2, 2
WINDOWS = (
    Window(key="CUSTOMER_ID", of="TX_AMOUNT", days=(7,)),
    Window(key="TERMINAL_ID", of=TARGET, days=(7,), delay_days=7),
)
MAX_ROWS = 1_000_000_000


def transactions(rows: int = 200_000, seed: int = 7, days: int = 60) -> pd.DataFrame:
    """`rows` transactions over `days` days, in time order; about one in a hundred is fraud.

    The features: amount, weekend, night, count and mean amount of the customer's last seven days, count and share of frauds
    of the terminal's seven days that ended seven days ago (labels take that long to be known). The pattern of a fraud is not
    among the columns: whoever trained on all of them would get a perfect score, and believe it. Raises `InvalidSpec`.
    """
    _check(rows, seed, days)
    rng = np.random.default_rng(seed)
    customers = max(10, round(rows / days / TRANSACTIONS_PER_DAY))
    terminals = customers * TERMINALS_PER_CUSTOMER
    second = _times(rng, rows, days)
    day = second // DAY
    customer = rng.integers(0, customers, rows, dtype=np.int32)
    terminal = ((customer * TERMINALS_PER_CUSTOMER + rng.integers(0, 10, rows, dtype=np.int32)) % terminals).astype(
        np.int32
    )
    amount = _amounts(rng, customer, customers)
    card = _compromised(rng, customers, days, CARD_RATE, CARD_DAYS)[customer, day] & (
        rng.random(rows, dtype=np.float32) < 1 / 3
    )
    amount = np.round(np.where(card, amount * 5, amount), 2)
    scenario = _scenario(amount, _compromised(rng, terminals, days, TERMINAL_RATE, TERMINAL_DAYS)[terminal, day], card)
    return pd.DataFrame(_columns(second, customer, terminal, amount, scenario), copy=False)


def _check(rows: int, seed: int, days: int) -> None:
    if not 100 <= rows <= MAX_ROWS:
        raise InvalidSpec(f"rows must be between 100 and {MAX_ROWS:,}, is {rows}")
    if not 0 <= seed < 2**32:
        raise InvalidSpec(f"seed must be between 0 and {2**32 - 1}, is {seed}")
    if not 1 <= days <= 3650:
        raise InvalidSpec(f"days must be between 1 and 3650, is {days}")


def _times(rng: np.random.Generator, rows: int, days: int) -> np.ndarray:
    """Seconds since the start, ascending; most transactions fall around noon."""
    noon = rng.normal(DAY / 2, 20_000, rows).astype(np.int64) % DAY
    return np.sort(rng.integers(0, days, rows) * DAY + noon)


def _amounts(rng: np.random.Generator, customer: np.ndarray, customers: int) -> np.ndarray:
    """Normal around the customer's own mean of 5 to 100, with half of it as deviation; never negative."""
    mean = rng.uniform(5, 100, customers)[customer]
    return np.abs(mean * (1 + rng.standard_normal(len(customer)) / 2))


def _compromised(rng: np.random.Generator, things: int, days: int, rate: float, length: int) -> np.ndarray:
    """things × days: whether it is compromised on that day; at least one is at some time, each for `length` days."""
    cases = max(1, round(things * days * rate))
    thing, first = rng.integers(0, things, cases), rng.integers(0, days, cases)
    grid = np.zeros((things, days), dtype=bool)
    for offset in range(length):
        grid[thing, np.minimum(first + offset, days - 1)] = True
    return grid


def _scenario(amount: np.ndarray, terminal: np.ndarray, card: np.ndarray) -> np.ndarray:
    """0 genuine, 1 amount over the limit, 2 compromised terminal, 3 compromised card."""
    scenario = np.zeros(len(amount), dtype=np.int8)
    scenario[amount > AMOUNT_LIMIT] = 1
    scenario[terminal] = 2
    scenario[card] = 3
    return scenario


def _columns(
    second: np.ndarray, customer: np.ndarray, terminal: np.ndarray, amount: np.ndarray, scenario: np.ndarray
) -> dict[str, Any]:
    fraud = (scenario > 0).astype(np.int8)
    hour = second % DAY // 3600
    when = START + second.astype("timedelta64[s]")
    weekday = (when.astype("datetime64[D]").astype(np.int64) + 3) % 7
    raw = {"TX_DATETIME": when, "CUSTOMER_ID": customer, "TERMINAL_ID": terminal, "TX_AMOUNT": amount, TARGET: fraud}
    past = windows.features(WINDOWS, TARGET, None, pd.DataFrame(raw, copy=False), "TX_DATETIME")
    return {
        "TRANSACTION_ID": np.arange(len(second)),
        "TX_DATETIME": when,
        "CUSTOMER_ID": customer,
        "TERMINAL_ID": terminal,
        "TX_AMOUNT": amount,
        "TX_DURING_WEEKEND": (weekday >= 5).astype(np.int8),
        "TX_DURING_NIGHT": (hour <= 6).astype(np.int8),
        "CUSTOMER_ID_NB_TX_7DAY_WINDOW": past["CUSTOMER_ID_count_7d"].astype(np.int32),
        "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW": past["CUSTOMER_ID_TX_AMOUNT_mean_7d"],
        "TERMINAL_ID_NB_TX_7DAY_WINDOW": past["TERMINAL_ID_count_7d_delay7d"].astype(np.int32),
        "TERMINAL_ID_RISK_7DAY_WINDOW": past["TERMINAL_ID_TX_FRAUD_risk_7d_delay7d"],
        TARGET: fraud,
    }
