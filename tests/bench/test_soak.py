"""The soak's judgement; its ten minutes are `make soak`."""

from __future__ import annotations

import numpy as np
import pytest

from bench.load.soak import Load, Question, Sample, _faults_of
from bench.server import Server
from config import MIB
from images import Picture
from tests.conftest import encode, sample_crop


@pytest.mark.parametrize(
    ("last", "faults"),
    [
        (Sample(1049 * MIB, 10, 20), []),
        (Sample(900 * MIB, 9, 19), []),
        (Sample(1051 * MIB, 10, 20), ["resident memory grew from 1000 to 1051 MiB"]),
        (Sample(1000 * MIB, 11, 20), ["threads grew from 10 to 11"]),
        (Sample(1000 * MIB, 10, 21), ["open files grew from 20 to 21"]),
    ],
)
def test_what_grows_beyond_its_limit_is_a_fault(last: Sample, faults: list[str]) -> None:
    assert _faults_of(Sample(1000 * MIB, 10, 20), last) == faults


def test_a_single_wrong_byte_is_a_fault() -> None:
    enlarged = Picture(np.ascontiguousarray(sample_crop(40, 30)))
    question = Question(encode(enlarged.pixels), enlarged)
    load = Load(Server("http://127.0.0.1:1"), [question])
    body = {"question": 0, "output_format": "png", "quality": 90}
    right = question.golden("png", 90)
    load._compare(body, right)
    assert load.faults == []
    load._compare(body, right[:-1] + b"x")
    assert load.faults == [f"wrong bytes: {body}"]
