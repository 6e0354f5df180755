"""Settings: every environment variable, its default and its unit, read once at start.

The name of a variable is the name of its field in upper case.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

VERSION = "0.3.0"
PROJECT = Path(__file__).resolve().parent.parent

MIB = 1024 * 1024
GIB = 1024 * MIB
HOURS = 60 * 60
MAX_PORT = 65535

MAX_URL_CHARACTERS = 2000  # of a webhook
MAX_PATH_CHARACTERS = 200  # of ROOT_PATH and of X-Forwarded-Prefix
URL_PATH = r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*"  # no // and no /.., which lead elsewhere

MAX_IMAGE_MB = 7  # of an image file, if no setting says otherwise
MAX_IMAGE_BYTES = MAX_IMAGE_MB * MIB
MAX_BODY_BYTES = 16 * MIB  # of JSON with such a file in it
InputFormat = Literal["PNG", "JPEG", "WebP", "BMP", "TIFF", "AVIF", "HEIC", "GIF"]
INPUT_FORMATS: tuple[InputFormat, ...] = get_args(InputFormat)

# Fixed by the contract, so not settings.
TargetResolution = Literal["2k", "4k", "8k"]
ModelName = Literal["photo", "anime", "photo_fast", "anime_fast"]
OutputFormat = Literal["jpeg", "png", "webp"]
Fit = Literal["passes", "exact"]
MetadataChoice = Literal["none", "keep"]
MAX_SCALE = 16
TARGET_PX: dict[TargetResolution, int] = {"2k": 2048, "4k": 3840, "8k": 7680}
MAX_PIXELS = TARGET_PX["8k"] ** 2  # 58,982,400: nothing larger can become smaller than the largest target
EXTENSIONS: dict[OutputFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}


class ConfigError(ValueError):
    """An environment variable has a value that cannot be used; the message names it and says what would be right."""


def either(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _setting(default: object, description: str, *, secret: bool = False, **limits: Any) -> Any:
    return Field(default=default, description=description, repr=not secret, **limits)


def _switch(value: object) -> object:
    """`true`, `1`, `false` or `0`: pydantic would also take `y`, `off` and others."""
    return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), "") if isinstance(value, str) else value


_CARD = "cuda:(0|[1-9][0-9]?)"
_URL = r"(?i)^(https?://[^\s/].*)?$"


class Settings(BaseModel):
    """What an operator can choose. Build it with `Settings.from_env()`, or by hand in a test."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    host: str = _setting(
        "0.0.0.0",  # noqa: S104 - a container must be reachable from outside
        "address to listen on",
        pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9_]+)?)$",
    )
    port: int = _setting(10005, "TCP port to listen on", ge=1, le=MAX_PORT)
    root_path: str = _setting(
        "",
        "path under which a proxy serves it, such as `/upscale`: URLs in responses begin with it, and requests may",
        pattern=rf"^{URL_PATH}/?$",
        max_length=MAX_PATH_CHARACTERS,
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _setting("INFO", "`DEBUG`, `INFO`, `WARNING` or `ERROR`")
    log_format: Literal["text", "json"] = _setting("text", "`text` (key=value) or `json`: how each line of the log is written")

    device: str = _setting(
        "auto",
        "`auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:N`, `all` GPUs, several (`cuda:0,cuda:1`), or `ray`",
        pattern=rf"^(auto|all|ray|cuda|cpu(,cpu)*|{_CARD}(,{_CARD})*)$",
    )
    precision: Literal["auto", "fp32", "fp16"] = _setting("auto", "`auto` (fp16 on a GPU, fp32 on a CPU), `fp32` or `fp16`")
    torch_threads: int = _setting(0, "CPU threads of the models; 0: torch chooses", ge=0)
    weights_dir: Path = _setting(PROJECT / "weights", "folder of the weights; by default, beside `app.py`")
    weights_mirror: str = _setting("", "base URL of your own mirror of the weights, asked first for `/<file>`", pattern=_URL)

    output_dir: Path = _setting(PROJECT / "outputs", "folder of the results; by default, beside `app.py`")
    retention_seconds: float = _setting(
        24.0 * HOURS,
        "seconds after which a result is removed, counted from when it was made or last requested",
        ge=0,
    )
    output_max_bytes: int = _setting(10 * GIB, "size of the folder above which the oldest results are removed", ge=0)

    instance: str = _setting(
        "",
        "this instance's name, up to 16 letters and digits, where several have folders of their own: ids of jobs and names of "
        "files begin with it, for a load balancer to see",
        pattern=r"^[A-Za-z0-9]{0,16}$",
    )

    input_formats: str = _setting(
        ",".join(INPUT_FORMATS), "comma-separated formats of images that are taken; leave out those that you do not want"
    )
    max_image_mb: int = _setting(
        MAX_IMAGE_MB,
        "MiB of an image file at most; bodies of JSON may have 16/7 of that, or 16 MiB if that is more",
        ge=1,
        le=100,
    )

    queue_limit: int = _setting(8, "requests that may wait; the next one gets 503", ge=0)
    bodies_max_bytes: int = _setting(
        256 * MIB,
        "bytes of all request bodies in memory; beyond that 503. At least one body must fit",
        ge=MAX_BODY_BYTES,
    )
    request_timeout_seconds: float = _setting(
        1800.0, "seconds from a request's arrival to its response, waiting included; then 504", ge=0.1
    )
    body_timeout_seconds: float = _setting(60.0, "time in which a request's body must have arrived, in seconds", ge=0.1)
    drain_seconds: float = _setting(120.0, "time that running requests get to finish after SIGTERM, in seconds", ge=0)

    webhook_secret: str = _setting("", "base64 of the 24 to 64 bytes that sign webhooks; empty: unsigned", secret=True)
    webhook_allow_private: Annotated[bool, BeforeValidator(_switch)] = _setting(
        False, "`True`: webhooks may go to your own network, and to this machine"
    )

    api_key: str = _setting(
        "", "comma-separated keys; every request except `/health` and `/livez` must carry one", secret=True
    )
    api_key_file: str = _setting("", "file with such keys, one a line, read at the start and on SIGHUP")
    cors_origins: str = _setting("", "comma-separated origins whose pages may use the service, or `*`")

    registry_url: str = _setting("", "URL to which heartbeats are posted; empty: none are sent", secret=True, pattern=_URL)
    registry_token: str = _setting("", "bearer token of the heartbeats", secret=True)
    heartbeat_seconds: float = _setting(30.0, "time between two heartbeats, in seconds", ge=0.01)
    service_type: str = _setting("upscale", "`type` in the heartbeat")
    public_url: str = _setting("", "`url` in the heartbeat; empty: built from the next two", pattern=_URL)
    public_ip: str = _setting("", "host in that URL; empty: the address of the outbound interface")
    public_port: int = _setting(0, "port in that URL; 0: `PORT`", ge=0, le=MAX_PORT)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read every variable that is set and not empty.

        Raises:
            ConfigError: a value is not of its type, out of range or not one of those allowed.
        """
        texts = {name: environ.get(name.upper(), "").strip() for name in cls.model_fields}
        given = {name: text for name, text in texts.items() if text}
        for name, text in given.items():
            _check_unicode(name, text)
        try:
            settings = cls.model_validate_strings(given)
        except ValidationError as exc:
            error = exc.errors(include_url=False, include_input=False)[0]
            name = str(error["loc"][0])
            raise _as_config_error(name, cls.model_fields[name], given[name], error) from None
        if settings.bodies_max_bytes < settings.max_body_bytes:
            raise ConfigError(
                f"BODIES_MAX_BYTES must be finite and at least {settings.max_body_bytes}, the bytes of one body, where "
                f"MAX_IMAGE_MB is {settings.max_image_mb}, not {str(settings.bodies_max_bytes)!r}"
            )
        return settings

    @field_validator("root_path")
    @classmethod
    def _without_slash(cls, path: str) -> str:
        return path.rstrip("/")

    @field_validator("input_formats")
    @classmethod
    def _check_formats(cls, text: str) -> str:
        _formats(text)
        return text

    @field_validator("device")
    @classmethod
    def _check_device(cls, text: str) -> str:
        cards = [name for name in text.split(",") if name != "cpu"]
        if len(set(cards)) < len(cards):
            raise ValueError("one card, twice")
        return text

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, secret: str) -> str:
        if secret and not 24 <= len(_decoded(secret)) <= 64:
            raise ValueError("not of the right length")
        return secret

    @property
    def formats(self) -> tuple[InputFormat, ...]:
        """The input formats that are taken."""
        return _formats(self.input_formats)

    @property
    def max_image_bytes(self) -> int:
        """Of an image file."""
        return self.max_image_mb * MIB

    @property
    def max_body_bytes(self) -> int:
        """Of a body of JSON: base64 has four bytes for three, and is written with line ends, escapes and other fields."""
        return max(MAX_BODY_BYTES, -(-self.max_image_mb * MAX_BODY_BYTES // MAX_IMAGE_BYTES) * MIB)

    @property
    def name_prefix(self) -> str:
        """What ids of jobs and names of files begin with."""
        return f"{self.instance}-" if self.instance else ""

    @property
    def local_url(self) -> str:
        """Where the page is found from this machine."""
        host = "localhost" if self.host in ("0.0.0.0", "::", "127.0.0.1", "::1") else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def webhook_key(self) -> bytes:
        """The bytes of `webhook_secret`; none: webhooks are not signed."""
        return _decoded(self.webhook_secret)


def _formats(text: str) -> tuple[InputFormat, ...]:
    """In the order that messages name them, whatever the case. Raises ValueError: one is unknown, or there is none."""
    names = {name.strip().lower() for name in text.split(",")} - {""}
    known = tuple(name for name in INPUT_FORMATS if name.lower() in names)
    if not known or len(known) < len(names):
        raise ValueError("an unknown format, or none")
    return known


def _decoded(secret: str) -> bytes:
    """Of base64, with the prefix that Standard Webhooks (https://www.standardwebhooks.com) gives it; empty if it is none."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return b""


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()  # responses hold paths, and can hold no others
    except UnicodeEncodeError:
        kind = "path" if Settings.model_fields[name].annotation is Path else "text"
        raise ConfigError(f"{name.upper()} must be a {kind} in UTF-8") from None


def _as_config_error(name: str, field: FieldInfo, text: str, error: ErrorDetails) -> ConfigError:
    kind, limits = error["type"], _limits(field)
    if kind == "literal_error":
        right = f"one of {', '.join(get_args(field.annotation))}"
    elif kind in ("greater_than_equal", "less_than_equal", "finite_number"):
        right = f"from {limits['ge']} to {limits['le']}" if "le" in limits else f"finite and at least {limits['ge']}"
    else:
        right = _RIGHT.get(name) or _KINDS[field.annotation]
    is_shown = field.repr and name not in _MAY_HOLD_A_PASSWORD
    return ConfigError(f"{name.upper()} must be {right}{f', not {text!r}' if is_shown else ''}")


def _limits(field: FieldInfo) -> dict[str, float]:
    return {key: getattr(item, key) for item in field.metadata for key in ("ge", "le") if hasattr(item, key)}


_MAY_HOLD_A_PASSWORD = ("weights_mirror", "registry_url", "public_url")
_RIGHT = {
    "root_path": "a path such as /upscale, of letters, digits and . _ ~ -",
    "host": "an address (0.0.0.0, ::) or the name of a host",
    "device": "auto, cpu, cuda, cuda:N, all, ray, or different cards such as cuda:0,cuda:1",
    "instance": "at most 16 letters and digits",
    "input_formats": f"some of {', '.join(INPUT_FORMATS)}, with commas between them",
    "webhook_secret": "the base64 of 24 to 64 bytes, such as `openssl rand -base64 32` gives",
    **dict.fromkeys(_MAY_HOLD_A_PASSWORD, "a URL that begins with http:// or https://"),
}
_KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}
