"""From a request's bytes to a valid request; the errors of each field, over HTTP, are in tests/security."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from jsonschema import Draft202012Validator

from core.errors import BadRequest, ConflictingFields, InvalidJSON, NotAnImage, OutOfRange, WrongType
from schemas.params import PARAMS, UpscaleParams, parse_params
from schemas.plan import Size, plan_upscale
from schemas.request import FIELDS, MAX_NAMED_FIELDS, IncomingRequest, UpscaleRequest
from serving.planning import parse_request
from tests.helpers import b64, encode

GRAY = np.zeros((20, 30), np.uint8)
IMAGE = encode(GRAY)


def parse(**fields: Any) -> UpscaleRequest:
    return parse_request(IncomingRequest(orjson.dumps({"image_b64": b64(IMAGE), **fields})))


def test_what_is_left_out_has_its_default() -> None:
    request = parse()
    assert (request.image.width, request.image.height, request.image.has_alpha) == (30, 20, False)
    assert request.params == UpscaleParams()
    assert (request.params.target_resolution, request.params.enhance_faces, request.output_format(False)) == (
        "4k",
        True,
        "jpeg",
    )
    assert (request.params.quality, request.params.fit, request.warnings) == (95, "passes", ())
    assert (request.params.model, request.params.face_strength) == ("photo", 1.0)
    assert request.plan == plan_upscale(Size(30, 20), "4k")


def test_what_is_given_is_taken() -> None:
    request = parse(target_resolution="8K", enhance_faces=False, output_format="webp", quality=1, fit="exact")
    params = request.params
    assert (params.target_resolution, params.enhance_faces, request.output_format(True)) == ("8k", False, "webp")
    assert (params.quality, params.fit, request.warnings) == (1, "exact", ())
    assert parse(quality=100).params.quality == 100
    assert (parse(model="anime").params.model, parse(face_strength=0).params.face_strength) == ("anime", 0)


def test_the_fingerprint_is_of_what_is_asked_however_it_is_written() -> None:
    raw = parse_request(IncomingRequest(IMAGE, is_raw=True, query="target_resolution=4K&quality=95"))
    same = [raw, parse(), parse(face_strength=1), parse(face_strength=1.0), parse(output_format="jpeg")]
    assert len({request.fingerprint(has_alpha=False) for request in same}) == 1
    others = [parse(), parse(quality=94), parse(webhook="http://a.example"), parse(output_format="png")]
    assert len({request.fingerprint(has_alpha=False) for request in others}) == 4
    assert parse().fingerprint(has_alpha=True) == parse(output_format="png").fingerprint(has_alpha=True)


def test_an_image_with_alpha_becomes_png_unless_another_format_is_asked() -> None:
    assert [parse().output_format(has_alpha) for has_alpha in (False, True)] == ["jpeg", "png"]
    assert [parse(output_format="jpeg").output_format(has_alpha) for has_alpha in (False, True)] == ["jpeg", "jpeg"]


def test_unknown_fields_are_named_up_to_a_number() -> None:
    (warning,) = parse(**{f"extra{number:03}": number for number in range(MAX_NAMED_FIELDS + 5)}).warnings
    assert warning.count("'extra") == MAX_NAMED_FIELDS
    assert "'extra019', …" in warning
    (warning,) = parse(**{"x" * 10_000: 1}).warnings
    assert len(warning) < 300


@pytest.mark.parametrize("name", list(PARAMS))
@pytest.mark.parametrize("value", [None, [], {}, -1.5, "", "x" * 10_000])
def test_an_error_names_its_field_and_never_repeats_much_of_the_input(name: str, value: object) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**{name: value})
    assert name in caught.value.message
    assert caught.value.details["field"] == name
    assert (caught.value.status, len(caught.value.message) < 200) == (400, True)


def test_every_example_and_every_default_is_valid() -> None:
    examples = {name: schema["examples"][0] for name, schema in FIELDS.items()}
    scale = {"scale": examples.pop("scale")}
    params = parse_request(IncomingRequest(orjson.dumps(examples))).params
    assert params.model_dump(exclude={"scale"}) == {name: examples[name] for name in PARAMS if name != "scale"}
    assert parse(**scale).params.scale == scale["scale"]
    defaults = {name: schema["default"] for name, schema in PARAMS.items() if "default" in schema}
    assert parse(**defaults).warnings == ()


def test_a_number_may_be_written_without_a_fraction_and_must_lie_within_its_limits() -> None:
    assert [parse(face_strength=value).params.face_strength for value in (0, 1, 0.25)] == [0, 1, 0.25]
    assert str(parse(face_strength=-0.0).params.face_strength) == "0.0"
    for value in (-0.01, 2, 1e30):
        with pytest.raises(OutOfRange, match="face_strength must be from 0 to 1"):
            parse(face_strength=value)
    for value in (float("nan"), float("inf")):
        with pytest.raises(OutOfRange, match="face_strength must be from 0 to 1"):
            parse_params({"face_strength": value})


def test_a_scale_lies_within_its_limits_and_takes_the_place_of_target_and_fit() -> None:
    for text, scale in {"2": 2, "1.5": 1.5, "16": 16, "16.0": 16, "1.0000001": 1.0000001}.items():
        assert parse_request(IncomingRequest(IMAGE, is_raw=True, query=f"scale={text}")).params.scale == scale
    for value in (1, 1.0, 0, -2, 16.0001, 1e30):
        with pytest.raises(OutOfRange, match="scale must be above 1 and at most 16"):
            parse(scale=value)
    for other_type in ("2", True, None, [2]):
        with pytest.raises(WrongType, match="scale must be a number"):
            parse(scale=other_type)
    for other in ({"target_resolution": "4k"}, {"fit": "passes"}, {"fit": "exact", "target_resolution": "2k"}):
        with pytest.raises(ConflictingFields):
            parse(scale=2, **other)
    with pytest.raises(ConflictingFields):
        parse_request(IncomingRequest(orjson.dumps({"image_b64": b64(IMAGE), "scale": 2}), query="fit=passes"))


def test_an_integer_is_what_json_schema_calls_one() -> None:
    schema = Draft202012Validator(PARAMS["quality"])
    for text, quality in {"95": 95, "95.0": 95, "9.5e1": 95, "1.0": 1, "95.5": None, "0.0": None, "1e300": None}.items():
        incoming = [
            IncomingRequest(IMAGE, is_raw=True, query=f"quality={text}"),
            IncomingRequest(orjson.dumps({"image_b64": b64(IMAGE)})[:-1] + f',"quality":{text}}}'.encode()),
        ]
        for each in incoming:
            assert schema.is_valid(orjson.loads(text)) == (quality is not None)
            if quality:
                assert repr(parse_request(each).params.quality) == str(quality)
            else:
                with pytest.raises(OutOfRange if text != "95.5" else WrongType):
                    parse_request(each)
    for value in (True, "95", "95.0", None, [95]):
        with pytest.raises(WrongType, match="quality must be a whole number"):
            parse(quality=value)


def test_an_invalid_image_is_named_before_other_fields() -> None:
    with pytest.raises(NotAnImage):
        parse(image_b64=b64(b"text"), quality=0)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 1_000_000, b'{"a":' * 1_000_000, b"\0" * 1000, b"1e999999999" * 2]
)
def test_bytes_that_are_no_json_are_refused_in_a_short_sentence(body: bytes) -> None:
    with pytest.raises(InvalidJSON) as caught:
        parse_request(IncomingRequest(body))
    assert len(caught.value.message) < 200
