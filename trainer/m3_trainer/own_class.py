"""Classes of the user's own: imported, held to the contract of `base_model`, stored by themselves and without pickle.

What such a class stores is read by its own `load`: code, which runs only where whoever loads has allowed its module.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import pickletools
import re
import sys
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from m3_trainer.errors import InvalidSpec, M3Error, TrainingFailed, UserCodeFailed

LIBRARIES = ("sklearn.", "xgboost.", "lightgbm.")
"""Whose models skops can store with our list of trusted types."""
METHODS = ("fit", "predict_proba", "get_params", "set_params")
STORES = ("save", "load")
FOLDER, ABOUT, AROUND = "own-model", "about.json", "around.skops"
CONTENT = "content"
"""The folder that the class writes and reads, in ours."""
ALLOWED_VARIABLE = "M3_MODEL_MODULES"
PICKLE_ENDINGS = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")


def import_class(path: str) -> Any:
    """The class at `package.module:Class`. Raises `InvalidSpec` where it is none that can be trained and stored."""
    module_name, _, name = path.partition(":")
    module = _module(module_name)
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        raise InvalidSpec(f"model.type: the module `{module_name}` must have the class `{name}`{hint}")
    cls = getattr(module, name)
    if not inspect.isclass(cls):
        raise InvalidSpec(f"model.type: {path} must be a class, is {_kind(cls)}")
    if missing := [method for method in METHODS if _lacks(cls, method)]:
        raise InvalidSpec(f"model.type: {path} must have the method {missing[0]}, as scikit-learn's classifiers do")
    if not is_of_a_library(cls) and (missing := [method for method in STORES if _lacks(cls, method)]):
        raise InvalidSpec(
            f"model.type: {path} must have `save(folder)` and `load(folder)`, or its model could not be registered: the registry "
            f"holds no pickle. `{missing[0]}` is missing; m3_trainer.base_model.BaseModel says how they are written"
        )
    return cls


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserCodeFailed(error, f"model.type: the module `{name}` must be importable: ") from error
        raise InvalidSpec(
            f"model.type: the module `{name}` must be importable where the job runs, so it must be installed there or its folder "
            f"be on PYTHONPATH: {error}"
        ) from error
    except (Exception, SystemExit) as error:
        raise UserCodeFailed(error, f"model.type: the module `{name}` must be importable: ") from error


def _lacks(cls: type, method: str) -> bool:
    return getattr(getattr(cls, method, None), "__isabstractmethod__", not hasattr(cls, method))


def _kind(value: Any) -> str:
    return "a function" if inspect.isfunction(value) else f"a value of type {type(value).__name__}"


def is_of_a_library(cls: type) -> bool:
    """Whether the class is one of scikit-learn, xgboost or lightgbm itself."""
    return f"{cls.__module__}.".startswith(LIBRARIES)


def takes_weights(cls: type) -> bool:
    """Whether `fit` has a parameter `sample_weight`, or takes any."""
    parameters = inspect.signature(cls.fit).parameters.values()
    return any(each.name == "sample_weight" or each.kind is each.VAR_KEYWORD for each in parameters)


@contextmanager
def told_apart(cls: type, library_must: str) -> Iterator[None]:
    """What a model raises: a user's own code is named with file and line, a library's complaint is told in its own words.

    Raises `UserCodeFailed`, or `TrainingFailed` with `library_must`: "… must …".
    """
    try:
        yield
    except M3Error:
        raise
    except Exception as error:
        if not is_of_a_library(cls):
            raise UserCodeFailed(error, file=_file_of(cls)) from error
        if not isinstance(error, (ValueError, TypeError)) and not type(error).__module__.startswith(LIBRARIES):
            raise
        raise TrainingFailed(f"{library_must}: {error}") from error


def _file_of(cls: type) -> str | None:
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def checked(given: Any, rows: int, cls: type) -> np.ndarray:
    """Probabilities of class 1, shape (n,), out of what a class of the user's own gave. Raises `UserCodeFailed`."""
    named = f"{cls.__module__}:{cls.__qualname__}.predict_proba"
    try:
        values = np.asarray(given, dtype=float)
    except (TypeError, ValueError) as error:
        raise UserCodeFailed(ValueError(f"{named} must give numbers: {error}")) from error
    if values.shape != (rows, 2):
        raise UserCodeFailed(
            ValueError(
                f"{named} must give the probabilities of class 0 and class 1 for each row, shape ({rows}, 2), gave shape "
                f"{values.shape}"
            )
        )
    positive = values[:, 1]
    if wrong := int(np.isnan(positive).sum()):
        raise UserCodeFailed(ValueError(f"{named} must give a number for each row, gave NaN for {wrong} of {rows}"))
    if outside := positive[(positive < 0) | (positive > 1)].tolist():
        raise UserCodeFailed(ValueError(f"{named} must give probabilities from 0 to 1, gave {outside[0]:g}"))
    return positive


# --- stored and loaded ------------------------------------------------------------------------------------------------
def save(estimator: Any, features: list[str], folder: Path) -> None:
    """Write the model and what it is into a folder. Raises `UserCodeFailed`, and `InvalidSpec` where it wrote a pickle."""
    cls = type(estimator)
    content = folder / CONTENT
    content.mkdir(parents=True)
    with told_apart(cls, ""):
        estimator.save(content)
    files = [path for path in content.rglob("*") if path.is_file()]
    if not files:
        raise UserCodeFailed(ValueError(f"{cls.__module__}:{cls.__qualname__}.save must write at least one file"))
    if pickles := sorted(str(path.relative_to(content)) for path in files if holds_pickle(path)):
        raise InvalidSpec(
            f"model.type: {cls.__module__}:{cls.__qualname__}.save must write no pickle, which runs code when it is read; "
            f"`{pickles[0]}` is one. Write JSON, npz without objects, or the library's own format"
        )
    about = {"class": f"{cls.__module__}:{cls.__qualname__}", "features": features}
    (folder / ABOUT).write_text(json.dumps(about))


def holds_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or an archive or array that holds one: what can be told without reading it as one."""
    if path.suffix in PICKLE_ENDINGS:
        return True
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(PICKLE_ENDINGS) or _is_pickle(archive.read(name)) for name in archive.namelist())
    return _is_pickle(path.read_bytes())


def _is_pickle(data: bytes) -> bool:
    if data.startswith(b"\x93NUMPY"):
        return re.search(rb"'descr': '[|]O'|\('[^']*', '[|]O'", data[:4096]) is not None
    if data[:1] != b"\x80" and not data.endswith(b"."):
        return False
    try:
        return sum(opcode is not None for opcode, _, _ in pickletools.genops(data)) > 1
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError):
        return False


def load(folder: Path, allowed: Collection[str]) -> Any:
    """The model that `save` has written. Raises `InvalidSpec` where its module is not allowed, before it is imported."""
    about = json.loads((folder / ABOUT).read_text())
    module = about["class"].partition(":")[0]
    if module not in allowed:
        raise InvalidSpec(
            f"the model is of the class {about['class']}, whose code would run: its module must be allowed before it is loaded, "
            f"by --allow-module {module} or {ALLOWED_VARIABLE}={module}"
        )
    cls = import_class(about["class"])
    with told_apart(cls, ""):
        estimator = cls.load(folder / CONTENT)
    return named(estimator, about["features"])


def named(estimator: Any, features: list[str]) -> Any:
    """With the names of features and classes that scikit-learn's own have after a fit, where it has not got them itself."""
    for name, values in {"feature_names_in_": np.asarray(features, dtype=object), "classes_": np.array([0, 1])}.items():
        if not hasattr(estimator, name):
            setattr(estimator, name, values)
    return estimator


def allowed_modules() -> set[str]:
    """Modules that `M3_MODEL_MODULES` names, separated by commas."""
    return {name.strip() for name in os.environ.get(ALLOWED_VARIABLE, "").split(",") if name.strip()}
