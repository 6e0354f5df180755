"""From a request's bytes to an order; the errors of each field, over HTTP, are in test_hostile.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from core.errors import BadRequest, InvalidJSON, NotAnImage, OutOfRange
from imaging.decode import ImageHeader
from schemas.request import FIELDS, MAX_NAMED_FIELDS, OPTIONS, Field, Order, Submission, parse_order
from tests.helpers import b64, encode

GRAY = np.zeros((20, 30), np.uint8)
IMAGE = encode(GRAY)


def parse(**fields: Any) -> Order:
    return parse_order(Submission(orjson.dumps({"image_b64": b64(IMAGE), **fields})))


def test_what_is_left_out_has_its_default() -> None:
    order = parse()
    assert (order.image, order.header) == (IMAGE, ImageHeader(30, 20, has_alpha=False))
    assert (order.target_resolution, order.enhance_faces, order.output_format) == ("4k", True, "jpeg")
    assert (order.quality, order.fit, order.warnings) == (95, "passes", ())
    assert (order.model, order.face_strength) == ("photo", 1.0)


def test_what_is_given_is_taken() -> None:
    order = parse(target_resolution="8K", enhance_faces=False, output_format="webp", quality=1, fit="exact")
    assert (order.target_resolution, order.enhance_faces, order.output_format) == ("8k", False, "webp")
    assert (order.quality, order.fit, order.warnings) == (1, "exact", ())
    assert parse(quality=100).quality == 100
    assert (parse(model="anime").model, parse(face_strength=0).face_strength) == ("anime", 0)


def test_an_image_with_alpha_becomes_png_unless_another_format_is_asked() -> None:
    transparent = b64(encode(np.zeros((20, 30, 4), np.uint8)))
    assert parse(image_b64=transparent).output_format == "png"
    assert parse(image_b64=transparent, output_format="jpeg").output_format == "jpeg"


def test_unknown_fields_are_named_up_to_a_number() -> None:
    (warning,) = parse(**{f"extra{number:03}": number for number in range(MAX_NAMED_FIELDS + 5)}).warnings
    assert warning.count("'extra") == MAX_NAMED_FIELDS
    assert "'extra019', …" in warning
    (warning,) = parse(**{"x" * 10_000: 1}).warnings
    assert len(warning) < 300


@pytest.mark.parametrize("name", [field.name for field in OPTIONS])
@pytest.mark.parametrize("value", [None, [], {}, 1.5, "", "x" * 10_000])
def test_an_error_names_its_field_and_never_repeats_much_of_the_input(name: str, value: object) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**{name: value})
    assert name in caught.value.message
    assert caught.value.details["field"] == name
    assert (caught.value.status, len(caught.value.message) < 200) == (400, True)


def test_every_example_and_every_default_is_valid() -> None:
    examples = {field.name: field.example for field in FIELDS}
    order = parse_order(Submission(orjson.dumps(examples)))
    assert {field.name: getattr(order, field.name) for field in OPTIONS} == {field.name: field.example for field in OPTIONS}
    defaults = {field.name: field.default for field in OPTIONS if field.default is not None}
    assert parse(**defaults).warnings == ()


def test_a_number_may_be_written_without_a_fraction_and_must_lie_within_its_limits() -> None:
    field = Field("strength", float, "how much", example=0.5, default=1.0, minimum=0, maximum=1)
    assert [field.take_from({"strength": value}) for value in (0, 1, 0.25)] == [0, 1, 0.25]
    for value in (-0.01, 2, float("nan")):
        with pytest.raises(OutOfRange, match="strength must be from 0 to 1"):
            field.take_from({"strength": value})


def test_an_invalid_image_is_named_before_other_fields() -> None:
    with pytest.raises(NotAnImage):
        parse(image_b64=b64(b"text"), quality=0)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 1_000_000, b'{"a":' * 1_000_000, b"\0" * 1000, b"1e999999999" * 2]
)
def test_bytes_that_are_no_json_are_refused_in_a_short_sentence(body: bytes) -> None:
    with pytest.raises(InvalidJSON) as caught:
        parse_order(Submission(body))
    assert len(caught.value.message) < 200
