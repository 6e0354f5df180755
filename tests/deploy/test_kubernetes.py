"""The manifests, held against the schemas of Kubernetes, of KEDA and of the Prometheus operator, and against the image."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from bench.server import ROOT
from core.config import VERSION, Settings
from serving.lifecycle import CANCEL_SECONDS
from tests.deploy.balancer import DEPLOY

FOLDER = DEPLOY / "kubernetes"
FILES = {path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(FOLDER.glob("*.yaml"))}
KUSTOMIZATION = FILES.pop("kustomization.yaml")[0]
MANIFESTS = [
    pytest.param(each, id=f"{name}-{each['metadata']['name']}") for name, documents in FILES.items() for each in documents
]
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}
POD = FILES["deployment.yaml"][0]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: f"{manifest['kind']} {manifest['metadata']['name']}")
def test_it_follows_the_schema(manifest: dict[str, Any]) -> None:
    if manifest["kind"] in SCHEMAS:
        jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
    elif manifest["kind"] == "RayService":  # whose schema is a megabyte, nearly all of it that of pods
        cluster = manifest["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **group["template"]}
            kubernetes_validate.validate(pod, "1.37", strict=True)
    else:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_kustomization_names_what_is_there() -> None:
    named = {line.strip(" #-") for line in (FOLDER / "kustomization.yaml").read_text().splitlines() if line.endswith(".yaml")}
    assert named == FILES.keys() - {"secret.example.yaml", "rayservice.yaml"}
    assert set(KUSTOMIZATION["resources"]) < named
    (image,) = KUSTOMIZATION["images"]
    assert (image["name"], image["newTag"]) == (CONTAINER["image"], VERSION)


def test_the_container_is_that_of_the_image() -> None:
    (user,) = re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)
    assert {POD["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
    folders = dict(re.findall(r"(WEIGHTS_DIR|OUTPUT_DIR)=(\S+)", DOCKERFILE))
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {*folders.values(), "/secrets", "/tmp"}  # noqa: S108 - read-only but for these
    assert {volume["name"] for volume in POD["volumes"]} == {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": Settings().port}]
    Settings.from_env({variable["name"]: variable["value"] for variable in CONTAINER["env"]})
    assert {variable["name"].lower() for variable in CONTAINER["env"]} <= Settings.model_fields.keys()


def test_a_pod_is_not_killed_while_it_drains() -> None:
    drain = next(float(variable["value"]) for variable in CONTAINER["env"] if variable["name"] == "DRAIN_SECONDS")
    waits = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert POD["terminationGracePeriodSeconds"] > waits + drain + CANCEL_SECONDS
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/health", "readiness": "/health", "liveness": "/livez"}, (
        "/health is 503 while the pod drains"
    )


def test_the_ingress_says_what_nginx_says() -> None:
    nginx = (DEPLOY / "nginx.conf").read_text()
    prefix = "nginx.ingress.kubernetes.io/"
    words = {"proxy-body-size": "client_max_body_size"}
    for name, value in FILES["ingress.yaml"][0]["metadata"]["annotations"].items():
        directive = words.get(name.removeprefix(prefix), name.removeprefix(prefix).replace("-", "_"))
        assert re.search(rf"^ *{directive} {value}s?;", nginx, re.MULTILINE), name


def test_all_speak_of_the_same_pods() -> None:
    labels = FILES["deployment.yaml"][0]["spec"]["template"]["metadata"]["labels"]
    assert FILES["deployment.yaml"][0]["spec"]["selector"]["matchLabels"] == labels
    assert FILES["service.yaml"][0]["spec"]["selector"] == labels
    assert FILES["poddisruptionbudget.yaml"][0]["spec"]["selector"]["matchLabels"] == labels
    assert FILES["networkpolicy.yaml"][0]["spec"]["podSelector"]["matchLabels"] == labels
    assert FILES["servicemonitor.yaml"][0]["spec"]["selector"]["matchLabels"] == FILES["service.yaml"][0]["metadata"]["labels"]


def test_the_autoscalers_ask_for_a_metric_that_exists() -> None:
    exported = (ROOT / "core" / "metrics.py").read_text()
    assert '"upscale_queue_waiting"' in exported
    (metric,) = FILES["hpa.yaml"][0]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "upscale_queue_waiting"
    (trigger,) = FILES["scaledobject.yaml"][0]["spec"]["triggers"]
    assert "sum(upscale_queue_waiting{" in trigger["metadata"]["query"]


def test_prometheus_has_a_key_of_the_example() -> None:
    keys = FILES["secret.example.yaml"][0]["stringData"]
    wanted = FILES["servicemonitor.yaml"][0]["spec"]["endpoints"][0]["authorization"]["credentials"]
    assert wanted["name"] == FILES["secret.example.yaml"][0]["metadata"]["name"]
    assert keys[wanted["key"]] in keys["keys"].split()
