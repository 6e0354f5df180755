"""Settings from environment variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.config import MIB, ConfigError, Settings
from scripts.tables import settings_table

RIGHT = {
    "HOST": ("::", "::"),
    "PORT": (" 8000 ", 8000),
    "ROOT_PATH": ("/a.b/c/", "/a.b/c"),
    "LOG_LEVEL": ("DEBUG", "DEBUG"),
    "LOG_FORMAT": ("json", "json"),
    "DEVICE": ("cuda:3", "cuda:3"),
    "PRECISION": ("fp16", "fp16"),
    "TORCH_THREADS": ("4", 4),
    "WEIGHTS_DIR": ("/srv/weights", Path("/srv/weights")),
    "WEIGHTS_MIRROR": ("https://mirror", "https://mirror"),
    "OUTPUT_DIR": ("out", Path("out")),
    "RETENTION_SECONDS": ("0.5", 0.5),
    "OUTPUT_MAX_BYTES": ("0", 0),
    "INSTANCE": ("b2", "b2"),
    "INPUT_FORMATS": ("heic, JPEG,png", "heic, JPEG,png"),
    "MAX_IMAGE_MB": ("5", 5),
    "QUEUE_LIMIT": ("0", 0),
    "REQUEST_TIMEOUT_SECONDS": ("900", 900.0),
    "BODIES_MAX_BYTES": ("16777216", 16777216),
    "BODY_TIMEOUT_SECONDS": ("5", 5.0),
    "DRAIN_SECONDS": ("1e2", 100.0),
    "WEBHOOK_SECRET": ("whsec_" + "QUJD" * 8, "whsec_" + "QUJD" * 8),
    "WEBHOOK_ALLOW_PRIVATE": ("True", True),
    "API_KEY": ("one,two", "one,two"),
    "API_KEY_FILE": ("keys", "keys"),
    "CORS_ORIGINS": ("*", "*"),
    "REGISTRY_URL": ("http://registry", "http://registry"),
    "REGISTRY_TOKEN": ("token", "token"),
    "HEARTBEAT_SECONDS": ("10", 10.0),
    "SERVICE_TYPE": ("other", "other"),
    "PUBLIC_URL": ("http://here", "http://here"),
    "PUBLIC_IP": ("10.0.0.1", "10.0.0.1"),
    "PUBLIC_PORT": ("80", 80),
}

WRONG = [
    ("HOST", "http://0.0.0.0", "an address"),
    ("HOST", "[::]", "an address"),
    *(("ROOT_PATH", wrong, "a path such as /upscale") for wrong in ("up", "//up", "/up/..", "/a b", "http://up", "/a" * 101)),
    ("PORT", "http", "a whole number"),
    ("PORT", "1.5", "a whole number"),
    ("PORT", "0", "from 1 to 65535"),
    ("PORT", "65536", "from 1 to 65535"),
    ("TORCH_THREADS", "-1", "at least 0"),
    ("QUEUE_LIMIT", "many", "a whole number"),
    ("QUEUE_LIMIT", "-1", "at least 0"),
    ("OUTPUT_MAX_BYTES", "10GB", "a whole number"),
    ("RETENTION_SECONDS", "a day", "a number"),
    ("RETENTION_SECONDS", "nan", "finite"),
    ("DRAIN_SECONDS", "inf", "finite"),
    ("BODY_TIMEOUT_SECONDS", "0", "at least 0.1"),
    ("HEARTBEAT_SECONDS", "0", "at least 0.01"),
    ("PUBLIC_PORT", "-1", "from 0 to 65535"),
    ("WEBHOOK_ALLOW_PRIVATE", "yes", "true or false"),
    ("DEVICE", "gpu", "auto, cpu, cuda, cuda:N, all, ray, or different cards"),
    ("DEVICE", "cuda:", "auto, cpu, cuda, cuda:N, all, ray, or different cards"),
    ("DEVICE", "cuda:00", "auto, cpu, cuda, cuda:N, all, ray, or different cards"),
    ("DEVICE", "cuda:100", "auto, cpu, cuda, cuda:N, all, ray, or different cards"),
    ("DEVICE", "cuda:0,cpu", "auto, cpu, cuda, cuda:N, all, ray, or different cards"),
    ("DEVICE", "cuda:0,cuda:1,cuda:0", "different cards such as cuda:0,cuda:1"),
    ("PRECISION", "fp8", "auto, fp32, fp16"),
    ("LOG_LEVEL", "verbose", "DEBUG, INFO, WARNING, ERROR"),
    ("LOG_FORMAT", "xml", "text, json"),
    ("INPUT_FORMATS", "PNG,JPEG2000", "some of PNG, JPEG, WebP"),
    ("INPUT_FORMATS", ",", "some of PNG, JPEG, WebP"),
    ("INSTANCE", "a-b", "at most 16 letters and digits"),
    ("INSTANCE", "seventeen0letters", "at most 16 letters and digits"),
    ("MAX_IMAGE_MB", "0", "from 1 to 100"),
    ("MAX_IMAGE_MB", "101", "from 1 to 100"),
    ("MAX_IMAGE_MB", "7.5", "a whole number"),
    ("BODIES_MAX_BYTES", "16777215", "at least 16777216"),
]


def test_without_variables_everything_has_its_default() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env(dict.fromkeys(RIGHT, " ")) == Settings()


def test_the_formats_are_named_in_one_order_whatever_is_written() -> None:
    assert Settings.from_env({"INPUT_FORMATS": "heic, JPEG,png"}).formats == ("PNG", "JPEG", "HEIC")
    assert Settings().formats == ("PNG", "JPEG", "WebP", "BMP", "TIFF", "AVIF", "HEIC", "GIF")


def test_the_limit_of_bodies_follows_that_of_files() -> None:
    for megabytes in range(1, 8):
        assert Settings(max_image_mb=megabytes).max_body_bytes == 16 * MIB
    for megabytes in range(8, 101):
        settings = Settings.from_env({"MAX_IMAGE_MB": str(megabytes)})
        lines = -(-megabytes * MIB * 4 // 3 // 76)  # of base64 as mail has it, whose ends JSON writes as \\r\\n
        assert lines * (76 + len(r"\r\n")) + MIB <= settings.max_body_bytes <= settings.bodies_max_bytes


def test_room_for_less_than_one_body_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^BODIES_MAX_BYTES must be .* at least 240123904, .* MAX_IMAGE_MB is 100"):
        Settings.from_env({"MAX_IMAGE_MB": "100", "BODIES_MAX_BYTES": "200000000"})


def test_a_path_that_no_response_could_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="OUTPUT_DIR must be a path in UTF-8"):
        Settings.from_env({"OUTPUT_DIR": os.fsdecode(b"/srv/\xe9t\xe9")})


def test_a_secret_that_is_refused_stays_one() -> None:
    with pytest.raises(ConfigError, match=r"^API_KEY must be a text in UTF-8$"):
        Settings.from_env({"API_KEY": os.fsdecode(b"secret\xe9")})


def test_every_setting_is_read_from_its_variable() -> None:
    settings = Settings.from_env({name: text for name, (text, _) in RIGHT.items()})
    assert {name.upper(): value for name, value in settings.model_dump().items()} == {
        name: value for name, (_, value) in RIGHT.items()
    }


@pytest.mark.parametrize(("name", "text", "right"), WRONG)
def test_a_wrong_value_is_refused_with_the_name_and_what_would_be_right(name: str, text: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({name: text})
    assert str(caught.value).startswith(f"{name} must be ")
    assert right in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["REGISTRY_URL", "PUBLIC_URL", "WEIGHTS_MIRROR"])
@pytest.mark.parametrize("text", ["user:password@host/path", "//host/path", "/srv/path", "ftp://host/path", "https:///path"])
def test_what_is_no_url_is_refused_and_kept_out_of_the_message(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a URL that begins with http:// or https://$"):
        Settings.from_env({name: text})


def test_secrets_are_in_no_repr() -> None:
    settings = Settings(registry_url="http://user:password@registry", registry_token="token-value", api_key="key-value")
    assert "key-value" not in repr(settings)
    assert "password" not in repr(settings)
    assert "token-value" not in repr(settings)


def test_the_table_has_a_row_for_every_variable() -> None:
    rows = settings_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [name.upper() for name in Settings.model_fields]
    assert all(row.count("|") == 4 for row in rows)
