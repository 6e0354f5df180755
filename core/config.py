"""Settings: every environment variable, its default and its unit, read once at start.

The name of a variable is the name of its field in upper case. The README's table of variables is `settings_table()`; a test
holds the two together. This room knows nothing of the others.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

VERSION = "0.1.0"
PROJECT = Path(__file__).resolve().parent.parent

MIB = 1024 * 1024
GIB = 1024 * MIB
HOURS = 60 * 60
MAX_PORT = 65535

# Fixed by the contract, so not settings.
MAX_IMAGE_BYTES = 7 * MIB
MAX_BODY_BYTES = 16 * MIB
TargetResolution = Literal["2k", "4k", "8k"]
ModelName = Literal["photo", "anime"]
OutputFormat = Literal["jpeg", "png", "webp"]
Fit = Literal["passes", "exact"]
TARGET_PX: dict[TargetResolution, int] = {"2k": 2048, "4k": 3840, "8k": 7680}
EXTENSIONS: dict[OutputFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}


class ConfigError(ValueError):
    """An environment variable has a value that cannot be used; the message names it and says what would be right."""


def _setting(default: object, help_text: str, *, minimum: float = -math.inf, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"help": help_text, "minimum": minimum})


@dataclass(frozen=True)
class Settings:
    """What an operator can choose. Build it with `Settings.from_env()`, or by hand in a test."""

    host: str = _setting("0.0.0.0", "address to listen on")  # noqa: S104 - a container must be reachable from outside
    port: int = _setting(10005, "TCP port to listen on", minimum=1)
    log_level: str = _setting("INFO", "`DEBUG`, `INFO`, `WARNING` or `ERROR`")
    log_format: str = _setting("text", "`text` (key=value) or `json`: how each line of the log is written")

    device: str = _setting("auto", "`auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:N`")
    precision: str = _setting("auto", "`auto` (the fastest that the device does natively), `fp32`, `bf16` or `fp16`")
    torch_threads: int = _setting(0, "CPU threads of the networks; 0 leaves the choice to torch", minimum=0)
    weights_dir: Path = _setting(PROJECT / "weights", "folder of the weights; by default, beside `app.py`")
    weights_mirror: str = _setting("", "base URL of a company's own copy of the weights, asked first for `/<file>`")

    output_dir: Path = _setting(PROJECT / "outputs", "folder of the results; by default, beside `app.py`")
    retention_seconds: float = _setting(
        24.0 * HOURS, "time since a result was made, or asked for again, after which it is removed, in seconds", minimum=0
    )
    output_max_bytes: int = _setting(10 * GIB, "size of the folder above which the oldest results are removed", minimum=0)

    queue_limit: int = _setting(8, "requests that may wait; the next one gets 503", minimum=0)
    bodies_max_bytes: int = _setting(
        256 * MIB,
        "bytes of all requests' bodies in memory at once; one beyond that gets 503",
        minimum=MAX_BODY_BYTES,
    )
    request_timeout_seconds: float = _setting(
        1800.0, "time from a request's arrival to its answer, waiting included, in seconds; over it, it gets 504", minimum=0.1
    )
    body_timeout_seconds: float = _setting(60.0, "time in which a request's body must have arrived, in seconds", minimum=0.1)
    drain_seconds: float = _setting(120.0, "time that running requests get to finish after SIGTERM, in seconds", minimum=0)

    webhook_secret: str = _setting("", "base64 of the 24 to 64 bytes that sign webhooks; empty: unsigned", secret=True)
    webhook_allow_private: bool = _setting(False, "`True`: webhooks may go to your own network, and to this machine")

    api_key: str = _setting("", "keys, with commas, one of which every request but /health must carry", secret=True)
    api_key_file: str = _setting("", "file with such keys, one a line, read once at the start")
    cors_origins: str = _setting("", "origins whose pages may use the service from a browser, with commas, or `*`")

    registry_url: str = _setting("", "URL to which heartbeats are posted; empty: none are sent", secret=True)
    registry_token: str = _setting("", "bearer token of the heartbeats", secret=True)
    heartbeat_seconds: float = _setting(30.0, "time between two heartbeats, in seconds", minimum=0.01)
    service_type: str = _setting("upscale", "`type` in the heartbeat")
    public_url: str = _setting("", "`url` in the heartbeat; empty: built from the next two")
    public_ip: str = _setting("", "host in that URL; empty: the address of the outbound interface")
    public_port: int = _setting(0, "port in that URL; 0: `PORT`", minimum=0)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read every variable that is set and not empty.

        Raises:
            ConfigError: a value is not of its type, out of range or not one of those allowed.
        """
        given = {f.name: _parse(f, environ[f.name.upper()]) for f in fields(cls) if environ.get(f.name.upper(), "").strip()}
        settings = cls(**given)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", settings.device):
            raise ConfigError(f"DEVICE must be auto, cpu, cuda or cuda:N, not {settings.device!r}")
        if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%\w+)?", settings.host):
            raise ConfigError(f"HOST must be an address (0.0.0.0, ::) or the name of a host, not {settings.host!r}")
        _one_of("LOG_LEVEL", settings.log_level, ("DEBUG", "INFO", "WARNING", "ERROR"))
        _one_of("LOG_FORMAT", settings.log_format, ("text", "json"))
        _one_of("PRECISION", settings.precision, ("auto", "fp32", "bf16", "fp16"))
        for name in ("weights_mirror", "registry_url", "public_url"):
            if (url := getattr(settings, name)) and not re.match(r"https?://[^\s/]", url, re.IGNORECASE):
                # not shown, since it may hold a password
                raise ConfigError(f"{name.upper()} must be a URL that begins with http:// or https://")
        if settings.webhook_secret and not 24 <= len(_decoded(settings.webhook_secret)) <= 64:
            raise ConfigError("WEBHOOK_SECRET must be the base64 of 24 to 64 bytes, such as `openssl rand -base64 32` gives")
        return settings

    @property
    def local_url(self) -> str:
        """Where the page is found from this machine."""
        host = "localhost" if self.host in ("0.0.0.0", "::", "127.0.0.1", "::1") else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def webhook_key(self) -> bytes:
        """The bytes of `webhook_secret`; none: webhooks are not signed."""
        return _decoded(self.webhook_secret)


def _decoded(secret: str) -> bytes:
    """Of base64, with the prefix that Standard Webhooks (https://www.standardwebhooks.com) gives it; empty if it is none."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return b""


def _parse(setting: Field[Any], text: str) -> Any:
    text = text.strip()
    kind: type = type(setting.default)
    try:
        text.encode()  # answers hold paths, and can hold no others
        value = _SWITCH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as exc:
        given = "" if not setting.repr else f", not {text!r}"
        raise ConfigError(f"{setting.name.upper()} must be {_KINDS[kind]}{given}") from exc
    minimum = setting.metadata["minimum"]
    maximum = MAX_PORT if setting.name.endswith("port") else math.inf
    if kind in (int, float) and not (minimum <= value <= maximum and math.isfinite(value)):
        limits = f"from {minimum} to {maximum}" if maximum < math.inf else f"finite and at least {minimum}"
        raise ConfigError(f"{setting.name.upper()} must be {limits}, not {text}")
    return value


_SWITCH = {"true": True, "1": True, "false": False, "0": False}
_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in UTF-8",
    type(Path()): "a path in UTF-8",
}


def _one_of(variable: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{variable} must be one of {', '.join(allowed)}, not {value!r}")


def settings_table() -> str:
    """The README's table of variables, in Markdown."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for setting in fields(Settings):
        shown = setting.default.name if isinstance(setting.default, Path) else str(setting.default)
        default = f"`{shown}`" if shown else ""
        rows.append(f"| `{setting.name.upper()}` | {default} | {setting.metadata['help']} |")
    return "\n".join(rows)
