"""The base of every model of the API: one declaration, two judges.

A cross-field rule is written once, as a `Rule`: its CEL text goes into the CRD, where the API server judges it, and its
Python twin runs in the model's validator, where `m3` and the operator judge it. Written apart they drift, and a file that a
laptop accepts is then refused by the cluster.

This module is in the trainer's package, not beside the CRD's models: `config.py` declares rules too, and the trainer never
imports the operator.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Rule:
    """A rule over several fields of one model.

    `cel` and `check` must say the same; the corpus under `tests/invalid` goes through both. `message` says what must be true.
    """

    cel: str
    message: str
    check: Callable[[Any], bool]


@dataclass(frozen=True)
class Must:
    """A text that matches a pattern, refused in words on both sides: neither shows the user a regular expression.

    A `pattern` of JSON schema would do for the API server, which then says "should match '^[a-z0-9]([-a-z…".
    `pattern` is anchored at both ends, and in the syntax that RE2 and Python share. `message` begins with "must".
    """

    pattern: str
    message: str
    cel_value: str = "self"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"x-kubernetes-validations": [self.rule()]}

    def rule(self) -> dict[str, str]:
        # a JSON text is a CEL text, too
        return {"rule": f"{self.cel_value}.matches({json.dumps(self.pattern)})", "message": self.message}

    def _checked(self, value: str) -> str:
        if re.fullmatch(self.pattern, value) is None:
            raise ValueError(f"{self.message}, is {shown(value)}")
        return value


def _present(model: BaseModel, name: str) -> bool:
    return getattr(model, name) is not None


def _count(names: Iterable[str]) -> str:
    return "[" + ", ".join(f"has(self.{to_camel(name)})" for name in names) + "].filter(present, present).size()"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{to_camel(name)}`" for name in names)


def exactly_one_of(*names: str) -> Rule:
    return Rule(
        cel=f"{_count(names)} == 1",
        message=f"exactly one of {_listed(names)} must be set",
        check=lambda model: sum(_present(model, name) for name in names) == 1,
    )


def at_most_one_of(*names: str) -> Rule:
    return Rule(
        cel=f"{_count(names)} <= 1",
        message=f"at most one of {_listed(names)} must be set",
        check=lambda model: sum(_present(model, name) for name in names) <= 1,
    )


class Model(BaseModel):
    """Base of all models: camelCase outside, snake_case inside, closed, frozen, documented by attribute docstrings."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        broken = [rule.message for rule in self.rules if not rule.check(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        if cls.rules:
            schema["x-kubernetes-validations"] = [{"rule": rule.cel, "message": rule.message} for rule in cls.rules]
        return reference

    @classmethod
    def parse(cls, document: Any) -> Self:
        """Validate a document as the API server would: JSON's types, none coerced (`"5"` is not a number).

        Raises `pydantic.ValidationError`; `explain` turns it into sentences.
        """
        return cls.model_validate_json(json.dumps(_as_stored(document, cls)), strict=True, by_alias=True, by_name=False)

    def dump(self) -> dict[str, Any]:
        """The model as it stands in a file: camelCase, without what is unset."""
        document = self.model_dump(mode="json", by_alias=True)
        return {
            field.alias or name: _dumped(getattr(self, name), document[field.alias or name])
            for name, field in type(self).model_fields.items()
            if getattr(self, name) is not None
        }


def _as_stored(value: Any, annotation: Any) -> Any:
    """The document as the API server keeps it: 3.0 is 3, and a null is as good as nothing, but where any value may stand."""
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT:
        return int(value)
    if isinstance(value, list):
        return [_as_stored(item, annotation) for item in value]
    if not isinstance(value, dict):
        return value
    fields, others, keeps_null = _places(annotation)
    return {
        name: _as_stored(item, fields.get(name, others))
        for name, item in value.items()
        if item is not None or keeps_null or (fields and name not in fields)
    }


MAX_EXACT = 2**53
"""Beyond it not every whole number is a float of JSON."""


@functools.cache
def _places(annotation: Any) -> tuple[dict[str, Any], Any, bool]:
    """What a mapping of this type holds: by name, under other names, and whether null is one of the values."""
    model = _model_in(annotation)
    if model is None:
        return {}, annotation, _mentions(annotation, JsonValue)
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}, None, False


def _mentions(annotation: Any, wanted: Any) -> bool:
    parts = getattr(annotation, "__args__", ())
    return annotation is wanted or any(_mentions(part, wanted) for part in parts)


def _dumped(value: Any, document: Any) -> Any:
    """`exclude_none` would also drop a null that the user wrote inside a mapping (`max_depth: null`)."""
    if isinstance(value, Model):
        return value.dump()
    if isinstance(value, (list, tuple)):
        return [_dumped(*pair) for pair in zip(value, document, strict=True)]
    return document


def explain(error: ValidationError, model: type[BaseModel], at: str = "") -> list[str]:
    """One sentence per fault of `error`: where it is and what must be true there, in the file's own words."""
    return [_sentence(fault, model, at) for fault in error.errors(include_url=False) if not _follows(fault)]


def _follows(fault: Any) -> bool:
    """Whether pydantic misses an item only because it has refused it: that is told of already."""
    return fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"]


def _sentence(fault: Any, model: type[BaseModel], at: str) -> str:
    path = ".".join([at] * bool(at) + [_short(str(part)) for part in fault["loc"] if part != "[key]"]) or "the file"
    kind, context = fault["type"], fault.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return f"{path}: must be a known field{_nearest(fault['loc'], model)}"
        case "missing":
            return f"{path}: must be set"
        case "value_error":
            return f"{path}: {context['error']}"
        case "too_short" | "too_long":
            return f"{path}: {_counted(kind, context)}, has {len(fault['input']) or 'none'}"
        case "string_too_short" | "string_too_long":
            return f"{path}: {_counted(kind, context, 'character')}, is {shown(fault['input'])}"
        case "date_parsing" | "date_from_datetime_parsing" | "date_from_datetime_inexact" | "date_type":
            return f"{path}: must be a day as YYYY-MM-DD, is {shown(fault['input'])}"
        case "string_type" if isinstance(fault["input"], bool):
            return f"{path}: must be a text, is {shown(fault['input'])}: put yes, no, y, n, on and off in quotes"
        case "literal_error" | "enum":
            return f"{path}: must be one of {context['expected']}, is {shown(fault['input'])}"
    if kind in _TYPES:
        return f"{path}: must be {_TYPES[kind]}, is {shown(fault['input'])}"
    must = fault["msg"].replace("Input should be", "must be").replace("should have", "must have")
    return f"{path}: {must[0].lower()}{must[1:]}, is {shown(fault['input'])}"


_TYPES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _counted(kind: str, context: dict[str, Any], unit: str = "item") -> str:
    bound, word = ("min_length", "least") if kind.endswith("short") else ("max_length", "most")
    return f"must have at {word} {context[bound]} {unit}{'s' if context[bound] != 1 else ''}"


def shown(value: Any) -> str:
    """A value in a message: as JSON, and short."""
    return _short(json.dumps(value, default=str, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(location: tuple[Any, ...], model: type[BaseModel]) -> str:
    known = _fields_at(model, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(sorted(known))}" if known else ""


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        fields = {(field.alias or name): field for name, field in current.model_fields.items()}
        current = _model_in(fields[part].annotation) if part in fields else None
        if current is None:
            return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside `X`, `X | None`, `list[X]` or `Annotated[X, …]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, getattr(annotation, "__args__", ()))), None)
