"""JSON Schema of the models, as the OpenAPI document wants it."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

Schema = dict[str, Any]


class PlainJsonSchema(GenerateJsonSchema):
    """Without a title for each field, which only repeats its name, and without defaults of responses and of null."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False

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
