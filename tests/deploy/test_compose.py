"""compose.yaml, held against the schema of Compose."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import jsonschema
import yaml

from core.config import Settings
from serving.lifecycle import CANCEL_SECONDS
from tests.deploy.balancer import DEPLOY

TEXT = (DEPLOY / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_it_follows_the_schema() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(COMPOSE, schema)


def test_each_profile_listens_on_one_port() -> None:
    published = [(service["profiles"], service["ports"]) for service in SERVICES.values() if "ports" in service]
    port = Settings().port
    assert published == [([profile], [f"{port}:{port}"]) for profile in ("cpu", "gpu", "gpus")]


def test_behind_nginx_each_process_has_a_card_of_its_own() -> None:
    (profile,) = SERVICES["nginx"]["profiles"]
    behind = [name for name, service in SERVICES.items() if profile in service["profiles"] and name != "nginx"]
    assert list(SERVICES["nginx"]["depends_on"]) == behind
    nginx = (DEPLOY / "nginx.conf").read_text()
    assert re.findall(r"^ *server (upscale.*):10005 ", nginx, re.MULTILINE) == behind
    cards = [SERVICES[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for name in behind]
    assert cards == [["0"], ["1"]]


def test_a_container_is_not_killed_while_it_drains() -> None:
    for name, service in SERVICES.items():
        if name != "nginx":
            assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds + CANCEL_SECONDS
