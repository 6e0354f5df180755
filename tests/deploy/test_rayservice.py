"""The RayService asks for what there is: KubeRay itself is not at hand."""

from __future__ import annotations

import tomllib
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

from bench.server import ROOT
from core.config import Settings

SPEC: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kubernetes/rayservice.yaml").read_text(encoding="utf-8"))["spec"]
CLUSTER = SPEC["rayClusterConfig"]
HEAD, WORKER, GATEWAY = (
    group["template"]["spec"]["containers"][0] for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])
)
(APPLICATION,) = yaml.safe_load(SPEC["serveConfigV2"])["applications"]


def test_its_application_is_ours() -> None:
    assert callable(resolve_name(APPLICATION["import_path"]))
    assert APPLICATION["args"] == {
        "least": CLUSTER["workerGroupSpecs"][0]["minReplicas"],
        "most": CLUSTER["workerGroupSpecs"][0]["maxReplicas"],
    }


def test_ray_takes_its_application() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed")
    schema.ServeDeploySchema.model_validate(yaml.safe_load(SPEC["serveConfigV2"]))


def test_it_runs_the_version_of_ray_that_is_pinned() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    assert groups["ray"] == [f"ray[serve]=={CLUSTER['rayVersion']}"]


def test_all_of_it_needs_the_token_and_outlives_the_head() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}
    for container in (HEAD, WORKER, GATEWAY):
        assert {"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "600"} in container["env"]


def test_the_settings_of_the_gateway_are_settings() -> None:
    environment = {variable["name"]: variable["value"] for variable in GATEWAY["env"]}
    settings = Settings.from_env(environment)

    assert (settings.device, settings.log_format) == ("ray", "json")
    assert GATEWAY["ports"] == [{"name": "http", "containerPort": settings.port}]
