"""JSON Schema of the models, as the OpenAPI document wants it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

Schema = dict[str, Any]


class PlainJsonSchema(GenerateJsonSchema):
    """Without a title for each field, which only repeats its name, and without defaults of responses and of null."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        """As pydantic has it, but `items` in place of equal `prefixItems`, of which some generators make wrong types."""
        made = super().tuple_schema(schema)
        first, *others = made.get("prefixItems", [None])
        if first and all(other == first for other in others):
            del made["prefixItems"]
            made["items"] = first
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """As pydantic has it, less a default that nobody sends: one of null, or one of a response."""
        made = super().default_schema(schema)
        if self.mode == "serialization" or made.get("default", ...) is None:
            made.pop("default", None)
        return made


@cache
def properties_of(model: type[BaseModel]) -> dict[str, Schema]:
    """The schema of each field of a model, by its name."""
    properties: dict[str, Schema] = model.model_json_schema(schema_generator=PlainJsonSchema)["properties"]
    return properties


def with_default_in_words(schema: Schema) -> Schema:
    """A field of a request: a client made from it would send a default each time, and take the field for required."""
    default = f"; default: `{orjson.dumps(schema['default']).decode()}`" if "default" in schema else ""
    rest = {key: value for key, value in schema.items() if key not in ("default", "examples")}
    return {**rest, "description": schema["description"] + default}


def with_named_choices(node: Any, choices: Mapping[str, tuple[str, ...]], reference: str) -> Any:
    """The same with a reference in place of each of these choices: a client has one type of it, and not one in each place."""
    if isinstance(node, list):
        return [with_named_choices(item, choices, reference) for item in node]
    if not isinstance(node, dict):
        return node
    for name, values in choices.items():
        if node.get("enum") == [*values]:
            rest = {key: value for key, value in node.items() if key not in ("type", "enum")}
            return {"allOf": [{"$ref": reference.format(model=name)}], **rest}
    return {key: with_named_choices(value, choices, reference) for key, value in node.items()}
