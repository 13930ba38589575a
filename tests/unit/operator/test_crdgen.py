"""What is made from the models is current, and what has no structural schema is refused."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from m3_operator import crdgen
from m3_trainer.schema import Model, Must

ROOT = Path(__file__).parents[3]


def test_the_committed_files_are_current():
    assert crdgen.stale(ROOT) == []


def test_writing_makes_them_so(tmp_path):
    assert len(crdgen.stale(tmp_path)) == 3
    crdgen.write(tmp_path)
    assert crdgen.stale(tmp_path) == []


def test_check_names_what_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["crdgen", "--check", "--root", str(tmp_path)])
    assert crdgen.main() == 1
    assert "operator/docs/api.md: must be as the models say; run `make generate`" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["crdgen", "--root", str(tmp_path)])
    assert crdgen.main() == 0


def schema_of(annotation, default=...):
    fields = {"__annotations__": {"field": annotation}, "__module__": __name__}
    model = type("Sample", (Model,), fields if default is ... else fields | {"field": default})
    raw = model.model_json_schema(by_alias=True)
    return crdgen._convert(raw, raw.get("$defs", {}), "Sample")["properties"]["field"]


class Inner(Model):
    number: int = 5
    text: str | None = None


SCHEMAS = {
    "optional": (str | None, None, {"type": "string"}),
    "exclusive bounds": (
        Annotated[float, Field(gt=0, lt=1)], ...,
        {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True},
    ),
    "a model as default, without its nulls": (
        Inner, Inner(),
        {"type": "object", "properties": {"number": {"type": "integer", "default": 5}, "text": {"type": "string"}},
         "default": {"number": 5}},
    ),
    "a list": (
        tuple[str, ...], (), {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic", "default": []},
    ),
    "a map with bounded keys": (
        dict[Annotated[str, Field(max_length=3), Must("^a$", "must be a")], int], ...,
        {
            "type": "object", "additionalProperties": {"type": "integer"},
            "x-kubernetes-validations": [
                {"rule": 'self.all(key, key.matches("^a$"))', "message": "each key must be a"},
                {"rule": "self.all(key, size(key) <= 3)", "message": "each key must be at most 3 characters"},
            ],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("annotation", "default", "expected"), SCHEMAS.values(), ids=SCHEMAS.keys())
def test_structural_schema(annotation, default, expected):
    assert schema_of(annotation, default) == expected


def test_a_union_is_refused():
    with pytest.raises(ValueError, match=r"Sample\.field: a union must be optional members"):
        schema_of(int | str)


def test_status_has_no_defaults():
    def defaults(schema):
        if isinstance(schema, dict):
            return ("default" in schema) + sum(map(defaults, schema.values()))
        return sum(map(defaults, schema)) if isinstance(schema, list) else 0

    schema = crdgen.custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert defaults(schema["properties"]["status"]) == 0
    assert defaults(schema["properties"]["spec"]) > 10
