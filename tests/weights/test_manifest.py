"""The manifest names every file, and a file is genuine by its hash alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.config import GIB, Settings
from model_utility import WeightsError, load_models
from tests.weights.file_server import DATA, a_file
from weights.manifest import WeightFile, is_genuine, read_manifest, too_little_memory


def test_manifest_names_the_files_of_the_service() -> None:
    manifest = read_manifest()
    assert list(manifest) == [
        "RealESRGAN_x4plus.pth",
        "RealESRGAN_x2plus.pth",
        "RealESRGAN_x4plus_anime_6B.pth",
        "realesr-general-x4v3.pth",
        "realesr-general-wdn-x4v3.pth",
        "realesr-animevideov3.pth",
        "GFPGANv1.4.pth",
        "detection_Resnet50_Final.pth",
        "detection_mobilenet0.25_Final.pth",
        "parsing_parsenet.pth",
    ]
    assert [file.name for file in manifest.values() if file.required] == ["RealESRGAN_x4plus.pth"]
    assert [file.name for file in manifest.values() if file.wheel] == [
        "RealESRGAN_x4plus.pth",
        "RealESRGAN_x4plus_anime_6B.pth",
        "realesr-animevideov3.pth",
        "detection_mobilenet0.25_Final.pth",
    ]
    assert [file.fallback_for for file in manifest.values() if file.fallback_for] == ["detection_Resnet50_Final.pth"]


@pytest.mark.parametrize("file", read_manifest().values(), ids=lambda file: file.name)
def test_manifest_says_everything_about_a_file(file: WeightFile) -> None:
    assert file.purpose.endswith(".")
    assert file.without
    assert file.license
    assert file.size_bytes > 1_000_000
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in file.genuine_sha256)
    assert re.fullmatch(rf"https://github\.com/\S+/releases/download/v[\d.]+/{re.escape(file.name)}", file.url)
    assert file.wheel is None or re.fullmatch(r"[a-z0-9-]+==[\d.]+", file.wheel.requirement)


def test_file_is_genuine_by_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "any name"
    path.write_bytes(DATA)
    assert is_genuine(path, a_file(""))
    path.write_bytes(DATA[:-1])
    assert not is_genuine(path, a_file(""))
    assert not is_genuine(tmp_path, a_file(""))
    assert not is_genuine(tmp_path / "missing", a_file(""))


def test_files_that_need_more_memory_than_the_container_has_are_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(weights_dir=tmp_path, device="cpu")
    for name in ("RealESRGAN_x4plus.pth", "GFPGANv1.4.pth"):
        (tmp_path / name).touch()
    monkeypatch.setattr("weights.manifest.memory_limit_bytes", lambda: 2 * GIB)
    assert too_little_memory() == ""
    with pytest.raises(WeightsError, match=r"is 2048 MiB, and with these weights the service needs at least 3548 MiB\."):
        load_models(settings)
    monkeypatch.setattr("weights.manifest.memory_limit_bytes", lambda: 2 * GIB - 1)
    assert "is 2047 MiB" in too_little_memory()
