"""What a Kubernetes API needs beside the models of the workload: quantities, bounded maps, rules between old and new.

The base model and the rules that hold for one object are in `m3_trainer.schema`, which the trainer shares.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from m3_trainer.schema import Model, Must, Rule, shown

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_LABEL = rf"^{LABEL}$"
DNS_SUBDOMAIN = rf"^{LABEL}([.]{LABEL})*$"
QUANTITY = r"^([0-9]+([.][0-9]+)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
IS_QUANTITY = Must(
    QUANTITY,
    "must be a quantity: a number, alone or with a unit of Kubernetes, as 500m (half a CPU) or 4Gi (not 4GB)",
    cel_value="string(self)",
)
IS_DNS_NAME = Must(
    DNS_SUBDOMAIN, "must be a name of Kubernetes: lower-case letters, digits, `-` and `.`, as `data-credentials`"
)


MAX_WHOLE_QUANTITY = 2**63 - 1


def _quantity_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # bool is an int to Python, and not a quantity to anyone
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_WHOLE_QUANTITY:
        return str(value)
    raise ValueError(f'must be a whole number from 0, or a text as 4Gi, 500m and "0.5", is {shown(value)}')


Quantity = Annotated[
    str,
    BeforeValidator(_quantity_text),
    Field(min_length=1, max_length=32),
    IS_QUANTITY,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "minLength": 1,
            "maxLength": 32,
            "x-kubernetes-validations": [IS_QUANTITY.rule()],
        }
    ),
]
ObjectName = Annotated[str, Field(min_length=1, max_length=253), IS_DNS_NAME]
QUALIFIED_NAME = rf"({LABEL}([.]{LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
LabelKey = Annotated[
    str,
    Field(min_length=1, max_length=317),
    Must(
        f"^{QUALIFIED_NAME}$",
        "must be the key of a label: a domain and `/` or neither, then at most 63 letters, digits, `-`, `_` and `.`",
    ),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Must(
        r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
        "must be the value of a label: letters, digits, `-`, `_` and `.`, the first and the last no sign",
    ),
]


@functools.lru_cache(1024)
def amount(quantity: str) -> Fraction:
    """The number that a quantity stands for, exactly."""
    number, unit = re.fullmatch(r"([0-9.]+)(.*)", quantity).groups()  # pyright: ignore[reportOptionalMemberAccess]
    exponent = unit[1:] if unit[:1] in ("e", "E") and unit[1:] else None
    return Fraction(number) * (Fraction(10) ** int(exponent) if exponent else UNITS[unit])


UNITS = {
    "": Fraction(1),
    **{unit: Fraction(1000) ** power for power, unit in enumerate("num", -3)},
    **{unit: Fraction(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Fraction(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
Text = Annotated[str, Field(max_length=1024)]
Message = Annotated[str, Field(max_length=4096)]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]


class StatusModel(Model):
    """Base of what the operator writes itself: open, so that an older operator reads what a newer one has written."""

    model_config = ConfigDict(extra="ignore")


def immutable(*names: str, unless: str) -> tuple[Rule, ...]:
    """One rule per field of `spec`, of those always there: it must stay as created, except where the CEL text `unless` holds.

    Without a Python twin: pydantic sees one object at a time, and only the API server has both.
    """
    return tuple(
        Rule(
            cel=f"self.spec.{to_camel(name)} == oldSelf.spec.{to_camel(name)} || ({unless})",
            message=f"`spec.{to_camel(name)}` must stay as it was created: make a new TrainingJob, or suspend this one "
            "before its first attempt",
            check=lambda _: True,
        )
        for name in names
    )
