"""What the soak test takes for a fault; its ten minutes are `make soak`."""

from __future__ import annotations

import numpy as np
import pytest

from bench.load.goldens import GoldenPicture
from bench.load.soak import Usage, growth
from bench.load.soak_clients import SoakClients
from bench.server import Server
from core.config import MIB
from imaging.picture import Picture
from tests.helpers import encode, sample_crop


@pytest.mark.parametrize(
    ("last", "faults"),
    [
        (Usage(1049 * MIB, 10, 20), []),
        (Usage(900 * MIB, 9, 19), []),
        (Usage(1051 * MIB, 10, 20), ["resident memory grew from 1000 to 1051 MiB"]),
        (Usage(1000 * MIB, 11, 20), ["threads grew from 10 to 11"]),
        (Usage(1000 * MIB, 10, 21), ["open files grew from 20 to 21"]),
    ],
)
def test_what_grows_beyond_its_limit_is_a_fault(last: Usage, faults: list[str]) -> None:
    assert growth(Usage(1000 * MIB, 10, 20), last) == faults


def test_a_single_wrong_byte_is_a_fault() -> None:
    enlarged = Picture(np.ascontiguousarray(sample_crop(40, 30)))
    picture = GoldenPicture(encode(enlarged.pixels), enlarged)
    clients = SoakClients(Server("http://127.0.0.1:1"), [picture])
    request = {"picture": 0, "output_format": "png", "quality": 90}
    right = picture.result("png", 90)
    clients.compare(request, right)
    assert clients.faults == []
    clients.compare(request, right[:-1] + b"x")
    assert clients.faults == [f"wrong bytes: {request}"]
