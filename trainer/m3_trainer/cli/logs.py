"""Where messages go: standard error, or what a file of `--log-config` says."""

from __future__ import annotations

import logging
import logging.config
import sys
from pathlib import Path
from typing import Any

from m3_trainer.errors import InvalidSpec

OURS = "m3_trainer"
PARTS = "version: 1, formatters, handlers, loggers, root"
FAULTS = (ValueError, TypeError, AttributeError, ImportError, LookupError, OSError)
"""What `dictConfig` raises for a dictionary that is none of its own."""


def begin(quiet: bool) -> None:
    """Lines on standard error: warnings of libraries, and of ours also the progress."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger(OURS).setLevel(logging.WARNING if quiet else logging.INFO)


def configure(path: str | None) -> None:
    """Log as a YAML file says, in the form of Python's `logging.config.dictConfig`. Raises `InvalidSpec`.

    Two things are made easier than there. Loggers that are there go on where the file does not say otherwise: Python's own
    default silences each that the file does not name. And the folder of a log file is made.
    """
    if path is None:
        return
    from m3_trainer import files

    document = {"disable_existing_loggers": False} | files.read_document(path)
    logging.getLogger(OURS).setLevel(logging.INFO if "root" not in document else logging.NOTSET)
    try:
        for folder in _folders(document):
            folder.mkdir(parents=True, exist_ok=True)
        logging.config.dictConfig(document)
    except FAULTS as error:
        told = ": ".join(str(each) for each in (error, error.__cause__) if each)
        raise InvalidSpec(f"{path}: must be a configuration of Python's logging ({PARTS}): {told}") from error


def _folders(document: dict[str, Any]) -> list[Path]:
    handlers = document.get("handlers")
    named = [each.get("filename") for each in handlers.values() if isinstance(each, dict)] if handlers else []
    return [Path(name).parent for name in named if isinstance(name, str)]
