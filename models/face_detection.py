"""Faces found: RetinaFace, and each face's alignment to the template that GFPGAN was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import torch
from facexlib.detection import retinaface
from facexlib.detection.retinaface import RetinaFace
from numpy.typing import NDArray
from torch import Tensor

from models.device import Device, Image, noise, seconds_of

Matrix = NDArray[np.float64]
Rows = NDArray[np.float64]
"""What RetinaFace finds, `(n, 15)`: the box (left, top, right, bottom), the score, five landmarks (x, y)."""

_COORDINATES = [0, 1, 2, 3, *range(5, 15)]

MIN_SCORE = 0.97  # facexlib's FaceRestoreHelper
MIN_EYE_DISTANCE_PX = 5.0  # GFPGANer: below it, a face is seen from the side or too small to restore
MIN_SIDE_PX = 16  # the smallest anchor of RetinaFace; nothing smaller can hold a face that it finds
DETECTION_LONG_SIDE_PX = 1280  # detection runs on a copy bounded to this: its time grows with the area, its finds hardly do
LARGE_PX = 512  # of the copy: RetinaFace's largest anchor; on a face that is larger it finds several, each a part of it
LARGE_FROM = 0.75  # of that, from where on a face may be taken from the half copy: what is in between, both may find
SAME_FACE_OVERLAP = 0.5  # of the smaller box, from where on two boxes are of one face
MEASURED_PX = 512  # side of the picture that the cost is measured with
# In FLOPs of a super-resolving pass that takes as long, on two cores; `FaceDetector.measure` learns what it is elsewhere.
DETECTION_FLOPS_PER_PX = {"mobile0.25": 55_000.0, "resnet50": 400_000.0}
FACE_PX = 512  # side of an aligned face: GFPGAN's input and output

# Five landmarks (eyes, nose, corners of the mouth) of FFHQ at 512×512, as in facexlib.
FACE_TEMPLATE = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043], [313.08905, 371.15118]]
)


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face, in pixels of the input: box (left, top, right, bottom), landmarks `(5, 2)` as (x, y)."""

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float64]
    alignment: Matrix  # the similarity (2, 3) that moves the landmarks onto the template


class PriorBox:
    """RetinaFace's anchors, as facexlib's class of this name gives them, without its loop over each of 67,000.

    The loop held the interpreter, and so every response, for a tenth of a second, and took longer than the network on a GPU.
    """

    def __init__(self, cfg: Mapping[str, Any], image_size: Sequence[int]) -> None:
        self._cfg = cfg
        self._height, self._width = image_size

    def forward(self) -> Tensor:
        """fp32 `(anchors, 4)`: centre x, centre y, width and height, as shares of the image's sides."""
        planes = []
        for step, min_sizes in zip(self._cfg["steps"], self._cfg["min_sizes"], strict=True):
            y, x = ((np.arange(-(-side // step)) + 0.5) * step / side for side in (self._height, self._width))
            anchors = np.empty((len(y), len(x), len(min_sizes), 4))
            anchors[..., 0], anchors[..., 1] = x[None, :, None], y[:, None, None]
            for i, side in enumerate((self._width, self._height)):
                anchors[..., 2 + i] = np.array(min_sizes) / side
            planes.append(anchors.reshape(-1, 4))
        return torch.from_numpy(np.concatenate(planes).astype(np.float32))


retinaface.PriorBox = PriorBox


class FaceDetector:
    """RetinaFace, either backbone."""

    def __init__(self, retinaface: RetinaFace, device: Device, flops_per_px: float) -> None:
        self._retinaface = retinaface
        self._device = device
        self._flops_per_px = flops_per_px

    @classmethod
    def load(cls, state_dict: dict[str, Tensor], backbone: str, device: Device) -> FaceDetector:
        """`backbone` is `resnet50` or `mobile0.25`; the detector always runs in fp32, as facexlib's does."""
        retinaface = RetinaFace(backbone, device=device.torch_device)
        retinaface.load_state_dict(state_dict, strict=True)
        return cls(retinaface.to(device.torch_device).eval(), device, DETECTION_FLOPS_PER_PX[backbone])

    def flops(self, height: int, width: int) -> float:
        """Work of a search, in FLOPs of a super-resolving pass that takes as long."""
        return self._flops_per_px * sum(height * width * factor**2 for factor in _search_factors(height, width))

    def measure(self, flops_per_second: float) -> None:
        """Learn the work of a search on this device, where a pass of super-resolution does so many FLOPs a second."""
        picture = noise(MEASURED_PX)
        self._flops_per_px = flops_per_second * seconds_of(lambda: self.detect(picture)) / MEASURED_PX**2

    @torch.inference_mode()
    def detect(self, image: Image) -> list[Face]:
        """Find faces in uint8 RGB `(h, w, 3)`; the best-scored first."""
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            return []
        factor, *half = _search_factors(height, width)
        rows = self._search(image, factor)
        if half:
            large, large_px = self._search(image, *half), LARGE_PX / factor
            rows = np.concatenate((rows[_sides(rows) <= large_px], large[_sides(large) > large_px * LARGE_FROM]))
        faces = (_to_face(row) for row in _once_each(rows))
        return [face for face in faces if face is not None]

    def _search(self, image: Image, factor: float) -> Rows:
        """What is found on a copy of that share of the image's size, in pixels of the image."""
        height, width = image.shape[:2]
        if factor < 1.0:
            size = (max(round(width * factor), 1), max(round(height * factor), 1))
            image = cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        with self._device.current():
            found = self._retinaface.detect_faces(np.ascontiguousarray(image[:, :, ::-1]), MIN_SCORE)
        rows = np.asarray(found, np.float64)
        rows[:, _COORDINATES] *= np.tile((width / image.shape[1], height / image.shape[0]), 7)
        return rows


def _search_factors(height: int, width: int) -> list[float]:
    """The sizes, as shares of the image's, of the copies that are searched: one, and its half where a face may be large."""
    factor = min(1.0, DETECTION_LONG_SIDE_PX / max(height, width))
    return [factor, factor / 2] if max(height, width) * factor > LARGE_PX else [factor]


def _sides(rows: Rows) -> NDArray[np.float64]:
    """The longer side of each box."""
    return np.asarray((rows[:, 2:4] - rows[:, :2]).max(axis=1))


def _once_each(rows: Rows) -> Rows:
    """The rows with the best score first, without those that lie, mostly, on the face of a better one."""
    kept: list[NDArray[np.float64]] = []
    for row in rows[np.argsort(-rows[:, 4], kind="stable")]:
        if all(_overlap(row, better) <= SAME_FACE_OVERLAP for better in kept):
            kept.append(row)
    return np.array(kept).reshape(-1, rows.shape[1])


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The area that two boxes share, as a part of the smaller one."""
    shared = np.minimum(first[2:4], second[2:4]) - np.maximum(first[:2], second[:2])
    smaller = min(np.prod(row[2:4] - row[:2]) for row in (first, second))
    return float(np.prod(shared.clip(0)) / smaller)


def _to_face(row: NDArray[np.float64]) -> Face | None:
    """A face of one row, or None where there is too little of it to restore."""
    left, top, right, bottom = row[:4].tolist()
    landmarks = row[5:15].reshape(5, 2)
    alignment = cv2.estimateAffinePartial2D(landmarks, FACE_TEMPLATE, method=cv2.LMEDS)[0]
    if alignment is None or np.linalg.norm(landmarks[0] - landmarks[1]) < MIN_EYE_DISTANCE_PX:
        return None
    return Face((left, top, right, bottom), landmarks, cast(Matrix, alignment))
