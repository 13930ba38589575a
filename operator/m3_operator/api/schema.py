"""What a Kubernetes API needs beside the models of the workload: quantities, bounded maps, rules between old and new.

The base model and the rules that hold for one object are in `m3_trainer.schema`, which the trainer shares.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from m3_trainer.schema import Model, Rule

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_LABEL = rf"^{LABEL}$"
DNS_SUBDOMAIN = rf"^{LABEL}([.]{LABEL})*$"
QUANTITY = r"^([0-9]+([.][0-9]+)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"


def _quantity_text(value: Any) -> Any:
    # bool is an int to Python, and not a quantity to anyone
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else value


Quantity = Annotated[
    str,
    BeforeValidator(_quantity_text),
    Field(min_length=1, max_length=32, pattern=QUANTITY),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "minLength": 1,
            "maxLength": 32,
            "pattern": QUANTITY,
        }
    ),
]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
Text = Annotated[str, Field(max_length=1024)]
Message = Annotated[str, Field(max_length=4096)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]


class StatusModel(Model):
    """Base of what the operator writes itself: open, so that an older operator reads what a newer one has written."""

    model_config = ConfigDict(extra="ignore")


def immutable(*names: str, unless: str) -> tuple[Rule, ...]:
    """One rule per field of `spec`: it must stay as it was created, except where the CEL text `unless` holds.

    Without a Python twin: pydantic sees one object at a time, and only the API server has both.
    """
    return tuple(
        Rule(
            cel=f"({unless}) || {_same(to_camel(name))}",
            message=f"`spec.{to_camel(name)}` must stay as it was created: make a new TrainingJob, or suspend this one "
            "before its first attempt",
            check=lambda _: True,
        )
        for name in names
    )


def _same(name: str) -> str:
    new, old = f"self.spec.{name}", f"oldSelf.spec.{name}"
    return f"(has({new}) ? has({old}) && {new} == {old} : !has({old}))"
