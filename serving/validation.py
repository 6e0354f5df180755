"""From a request as it came to one that can be run: fields, image, what the client accepts, plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from core.config import EXTENSIONS, OutputFormat
from core.errors import NotAcceptable
from imaging.formats import open_image
from schemas.params import PARAMS, parse_params
from schemas.plan import Size, plan_for
from schemas.request import FIELDS, IncomingRequest, UpscaleRequest, image_text, read_fields, unknown_fields_warning
from utility import decode_base64


def parse_request(incoming: IncomingRequest) -> UpscaleRequest:
    """Validate a request, down to the image's header. The image is opened here, once; its pixels are not read.

    Raises:
        BadRequest: which field, what was wrong with it, and what would be right.
        NotAcceptable: the client accepts no format that the result may have.
    """
    given = read_fields(incoming)
    data = incoming.body if incoming.is_raw else decode_base64(image_text(given), incoming.limits.max_bytes)
    image = open_image(data, incoming.limits)
    params = parse_params(given)
    _check_acceptable(params.output_format, incoming.accepted)
    plan = plan_for(Size(image.width, image.height), params)
    warnings = unknown_fields_warning(given, PARAMS if incoming.is_raw else FIELDS)
    return UpscaleRequest(image, params, incoming.accepted, plan, hashlib.sha256(data).hexdigest(), warnings)


def _check_acceptable(asked: OutputFormat | None, accepted: Mapping[OutputFormat, float]) -> None:
    if accepted and not (accepted[asked] if asked else any(accepted.values())):
        response = f"would be image/{asked}, which Accept leaves out" if asked else "cannot be of any kind in Accept"
        raise NotAcceptable(
            f"The response {response}. It may name application/json, "
            f"{', '.join(f'image/{name}' for name in EXTENSIONS)} or image/*, in accordance with output_format.",
        )
