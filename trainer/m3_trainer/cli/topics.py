"""What `m3 help` knows beside the commands."""

from __future__ import annotations

from m3_trainer.cli import environment

EXIT_CODES = {
    0: "done; `wait`: reached; `doctor`: no fault",
    1: "a fault of `m3` itself",
    2: "the file or the flags: refused here or by the API server",
    3: "the data is not what the file says",
    4: "MLflow does not answer, or refuses",
    5: "no space left",
    6: "the model refused the data",
    7: "the data's store does not answer",
    8: "a class of your own raised",
    9: "in a cluster's job: its head was restarted",
    10: "no cluster answers: no kubeconfig, no API server, or the Python package is missing",
    11: "the cluster refuses: rights, quota, conflict",
    12: "no such job, namespace or log, or M3 is not installed",
    13: "the job has failed, or can no longer become what was waited for",
    14: "the time is over",
    15: "`m3 doctor` has found a fault",
    16: "the Ray cluster of `RAY_ADDRESS` does not answer, or loses its nodes",
    130: "stopped by Ctrl-C or SIGTERM: a run that was begun ends as KILLED, and nothing in the cluster was changed by it",
    137: "in a cluster's job: out of memory",
}
EPILOG = "Exit codes: 0 done, 2 the file or the flags, 3 the data, 130 stopped; all of them: m3 help exit-codes."


def exit_codes() -> str:
    return "\n".join(f"{code:>4}  {meaning.replace('`', '')}" for code, meaning in EXIT_CODES.items())


def variables() -> str:
    width = max(map(len, environment.VARIABLES))
    lines = [f"  {name:<{width}}  {meaning}" for name, meaning in environment.VARIABLES.items()]
    head = "Flags win over the environment, and that over a file .env in the working folder, with lines NAME=value.\n"
    return "\n".join([head, *lines])


TOPICS = {"exit-codes": exit_codes, "environment": variables}


def complete(incomplete: str) -> list[str]:
    return [name for name in TOPICS if name.startswith(incomplete)]
