"""openapi-python-client (https://pypi.org/project/openapi-python-client/): what it makes talks to the service."""

from __future__ import annotations

import base64
import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.server import ROOT, Server
from tests.clients.conftest import run
from tests.docs.documents import code_blocks, page
from tests.docs.test_examples import SERVER
from tests.helpers import encode, sample_crop

NAME = "upscale_client"
PNG = encode(sample_crop(40, 30))
GENERATE, USE = (
    next(block for block in code_blocks(page("clients"), language) if word in block)
    for language, word in (("sh", "openapi-python-client"), ("python", NAME))
)


@pytest.fixture(scope="module")
def folder(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the client in it, made by the command of the document."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "samples").symlink_to(ROOT / "samples")
    command = GENERATE.replace(SERVER, server.url).split()
    printed = run(folder, *command, "--fail-on-warning")
    assert "arning" not in printed
    return folder


class Generated:
    """The client; `call("pictures.upscale", …)` is the operation of that name."""

    def __init__(self, url: str) -> None:
        self.models: Any = importlib.import_module(f"{NAME}.models")
        self.types: Any = importlib.import_module(f"{NAME}.types")
        self.client: Any = importlib.import_module(NAME).Client(url, raise_on_unexpected_status=True)

    def call(self, operation: str, *ids: str, **arguments: Any) -> Any:
        return importlib.import_module(f"{NAME}.api.{operation}").sync(*ids, client=self.client, **arguments)

    def file(self) -> Any:
        return self.types.File(io.BytesIO(PNG), "photo.png", "image/png")


@pytest.fixture
def client(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Generated]:
    monkeypatch.syspath_prepend(str(folder))
    generated = Generated(server.url)
    with generated.client:
        yield generated


def test_the_example_of_the_document_works(server: Server, folder: Path) -> None:
    (folder / "example.py").write_text(USE.replace(SERVER, server.url))
    run(folder, sys.executable, "example.py")
    with Image.open(folder / "larger.jpg") as image:
        assert image.size == (1920, 1200)


def test_an_error_does_not_end_up_in_the_result(server: Server, folder: Path) -> None:
    (folder / "larger.jpg").unlink(missing_ok=True)
    (folder / "no_picture.jpg").write_text("no picture")
    (folder / "bad.py").write_text(USE.replace(SERVER, server.url).replace("samples/astronaut.jpg", "no_picture.jpg"))
    with pytest.raises(AssertionError, match="The data is not an image"):
        run(folder, sys.executable, "bad.py")
    assert not (folder / "larger.jpg").exists()


def test_a_picture_is_sent_as_a_file_as_a_form_and_as_json(client: Generated) -> None:
    models, choices = client.models, {"scale": 2.0, "enhance_faces": False, "output_format": client.models.OutputFormat.PNG}
    raw = client.call("pictures.upscale", body=client.file(), **choices)
    form = client.call("pictures.upscale", body=models.UpscaleForm(image=client.file(), **choices))
    text = base64.b64encode(PNG).decode()
    body = client.call("pictures.upscale", body=models.UpscaleBody(image_b64=text, **choices))
    assert [(each.upscaled_size.width, each.format_) for each in (raw, form, body)] == [(80, models.OutputFormat.PNG)] * 3
    assert raw.base64 == form.base64 == body.base64


def test_errors_have_their_type(client: Generated) -> None:
    wrong = client.types.File(io.BytesIO(b"no picture"))
    for body in (wrong, client.models.UpscaleForm(image=wrong)):
        error = client.call("pictures.upscale", body=body)
        assert (type(error).__name__, error.success, error.code) == ("ErrorResponse", False, "not_an_image")
    unknown = client.call("jobs.get_job", "unknown-job")
    assert unknown.code == "not_found"


def test_plans_and_health(client: Generated) -> None:
    plan = client.call("pictures.plan", body=client.file(), target_resolution=client.models.TargetResolution("2k"))
    assert (plan.upscaled_size.width, plan.upscaling_strategy) == (1280, [4, 4, 2])
    sizes = client.call("pictures.list_sizes", width=40, height=30)
    assert [type(each).__name__ for each in sizes.sizes] == ["PossibleSize"] * 8
    large = client.call("pictures.list_sizes", width=5000, height=30)
    assert "ImpossibleSize" in {type(each).__name__ for each in large.sizes}
    health = client.call("service.get_health")
    assert health.status in (client.models.ServiceState.HEALTHY, client.models.ServiceState.DEGRADED)
    assert [str(each) for each in health.supported_resolutions] == ["2k", "4k", "8k"]
    assert health.models["upscale_x4"].loaded


def test_a_job_is_put_looked_at_and_cancelled_and_its_file_fetched(client: Generated) -> None:
    put = client.call("jobs.put_job", "my-own-id", body=client.file(), scale=2.0)
    got = client.call("jobs.get_job", "my-own-id")
    assert put == got == client.call("jobs.cancel_job", "my-own-id")
    assert got.status is client.models.JobStatus.SUCCEEDED
    fetched = client.call("pictures.get_file", got.result.url.rpartition("/")[2])
    with Image.open(fetched.payload) as image:
        assert image.size == (80, 60)
    later = client.call("jobs.put_job", "another-id", body=client.file(), prefer="respond-async", scale=2.5)
    assert later.urls.get == "/jobs/another-id"
