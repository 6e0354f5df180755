"""From a request as it came to one that can be run: fields, image, format of the result, plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from core.config import EXTENSIONS, OutputFormat
from core.errors import NotAcceptable
from imaging.formats import open_image
from schemas.params import PARAMS, parse_params, usual_format
from schemas.plan import Size, plan_upscale, with_denoise
from schemas.request import FIELDS, IncomingRequest, UpscaleRequest, image_text, read_fields, unknown_fields_warning
from utility import decode_base64


def parse_request(incoming: IncomingRequest) -> UpscaleRequest:
    """Validate a request, down to the image's header. The image is opened here, once; its pixels are not read.

    Raises:
        BadRequest: which field, what was wrong with it, and what would be right.
        NotAcceptable: the client accepts no format that the result may have.
    """
    given = read_fields(incoming)
    data = incoming.body if incoming.is_raw else decode_base64(image_text(given))
    image = open_image(data)
    params = parse_params(given)
    output_format = _output_format(params.output_format, usual_format(image.has_alpha), incoming.accepted)
    plan = plan_upscale(Size(image.width, image.height), params.target_resolution, params.fit, params.model)
    plan = with_denoise(plan, params.denoise)
    choices = {**params.model_dump(), "output_format": output_format}
    fingerprint = hashlib.sha256(repr(sorted(choices.items())).encode())
    fingerprint.update(data)
    warnings = unknown_fields_warning(given, PARAMS if incoming.is_raw else FIELDS)
    return UpscaleRequest(image, params, output_format, plan, fingerprint.hexdigest(), warnings)


def _output_format(asked: OutputFormat | None, usual: OutputFormat, accepted: Mapping[OutputFormat, float]) -> OutputFormat:
    """The format asked for; else of those that the client likes best the usual one, if it is among them."""
    if not accepted:
        return asked or usual
    best = max(EXTENSIONS, key=lambda name: (accepted[name], name == usual))
    chosen = asked or best
    if not accepted[chosen]:
        raise NotAcceptable(
            f"The response would be image/{chosen}, which Accept leaves out. It may name application/json, "
            f"{', '.join(f'image/{name}' for name in EXTENSIONS)} or image/*, in accordance with output_format.",
        )
    return chosen
