"""The model as a folder beside the registry: for those who serve or ship files (`MODEL_OUTPUT_PATH`)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from m3_trainer.errors import InvalidSpec, is_disk_full

if TYPE_CHECKING:
    from m3_trainer.tracking import Tracker

FLAG = "--model-output-path"
MARK = "MLmodel"
"""The file that makes a folder a model of MLflow's."""


def prepare(root: Path | None) -> None:
    """Before an hour of training: that there can be a model. Raises `InvalidSpec`."""
    if root is None:
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InvalidSpec(f"{FLAG}: {root} must be a folder that can be written to: {error.strerror}") from error


def write(root: Path, model: dict[str, str], tracker: Tracker) -> Path:
    """The registered version's files as `root/NAME/VERSION`, all of them or none. Raises `InvalidSpec`, `TrackingUnavailable`.

    By name and version, so that no run overwrites what another has written. Only a registry that was begun anew comes to a
    version a second time: its model then takes the old one's place.
    """
    from m3_trainer import registry

    folder = root / model["name"] / model["version"]
    if folder.exists() and not (folder / MARK).is_file():
        raise InvalidSpec(f"{FLAG}: {folder} must be free, or a model of an earlier run; it is something else")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".m3-", dir=folder.parent) as temporary:
        # with the rights that the user's folders have: a temporary one is its owner's alone
        own = Path(temporary) / "model"
        own.mkdir()
        local = registry.download(model["uri"], tracker, own)
        if folder.exists():
            shutil.rmtree(folder)
        local.replace(folder)
    return folder
