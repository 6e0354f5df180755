"""Faces: detection, alignment, restoration, paste-back.

Arrays in and out: all images are uint8 RGB here, and are turned to BGR only at the door of the network that was trained on it.
Like `model_utility`, this room imports torch, and only the device's own thread may call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.super_resolution import Advance, Device  # first: it prepares the process for torch, and lets gfpgan be imported

# isort: split
import cv2
import torch
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.parsenet import ParseNet
from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean
from torch import Tensor

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]
Mask = NDArray[np.float32]

MIN_SCORE = 0.97  # facexlib's FaceRestoreHelper
MIN_EYE_DISTANCE_PX = 5.0  # GFPGANer: below it, a face is seen from the side or too small to restore
MIN_SIDE_PX = 16  # the smallest anchor of RetinaFace; nothing smaller can hold a face that it finds
DETECTION_LONG_SIDE_PX = 1280  # detection runs on a copy bounded to this: its time grows with the area, its finds hardly do
# What the networks here cost, in FLOPs of a super-resolving pass, which a CPU does faster: it runs in bf16, they in fp32.
DETECTION_FLOPS_PER_PX = {"mobile0.25": 55_000.0, "resnet50": 400_000.0}
RESTORATION_FLOPS = 1.2e12  # a face
FACE_PX = 512  # GFPGAN's input and output
BATCH_FACES = 4  # faces restored at once

# Five landmarks (eyes, nose, corners of the mouth) of FFHQ at 512×512, as in facexlib.
FACE_TEMPLATE = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043], [313.08905, 371.15118]]
)
BORDER_GRAY_RGB = (132, 133, 135)  # facexlib fills what lies outside the photograph with this
PARSED_AS_FACE = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0], np.float32)  # ParseNet's 19 classes


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face, in pixels of the input: box (left, top, right, bottom), landmarks `(5, 2)` as (x, y)."""

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float64]

    alignment: Matrix  # the similarity (2, 3) that moves the landmarks onto the template


class FaceDetector:
    """RetinaFace, either backbone."""

    def __init__(self, network: RetinaFace, flops_per_px: float = DETECTION_FLOPS_PER_PX["mobile0.25"]) -> None:
        self._network = network
        self._flops_per_px = flops_per_px

    @classmethod
    def load(cls, state_dict: dict[str, Tensor], backbone: str, device: Device) -> FaceDetector:
        """`backbone` is `resnet50` or `mobile0.25`; the detector always runs in fp32, as facexlib's does."""
        network = RetinaFace(backbone, device=device.torch_device)
        network.load_state_dict(state_dict, strict=True)
        return cls(network.to(device.torch_device).eval(), DETECTION_FLOPS_PER_PX[backbone])

    def flops(self, height: int, width: int) -> float:
        """Work of a search, in FLOPs of a super-resolving pass that takes as long."""
        shrink = min(1.0, DETECTION_LONG_SIDE_PX / max(height, width))
        return self._flops_per_px * height * width * shrink**2

    @torch.inference_mode()
    def detect(self, image: Image) -> list[Face]:
        """Find faces in uint8 RGB `(h, w, 3)`; the best-scored first."""
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            return []
        shrink = min(1.0, DETECTION_LONG_SIDE_PX / max(height, width))
        if shrink < 1.0:
            size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
            image = cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        found = self._network.detect_faces(np.ascontiguousarray(image[:, :, ::-1]), MIN_SCORE)
        faces = (_to_face(row, width / image.shape[1], height / image.shape[0]) for row in found)
        return [face for face in faces if face is not None]


def _to_face(row: NDArray[np.float32], scale_x: float, scale_y: float) -> Face | None:
    """One row of RetinaFace (box, score, landmarks) as a face, or None where there is too little of it to restore."""
    left, top, right, bottom = (row[:4].astype(float) * (scale_x, scale_y, scale_x, scale_y)).tolist()
    landmarks = row[5:15].reshape(5, 2).astype(float) * (scale_x, scale_y)
    alignment = cv2.estimateAffinePartial2D(landmarks, FACE_TEMPLATE, method=cv2.LMEDS)[0]
    if alignment is None or np.linalg.norm(landmarks[0] - landmarks[1]) < MIN_EYE_DISTANCE_PX:
        return None
    return Face((left, top, right, bottom), landmarks, cast(Matrix, alignment))


class FaceRestorer:
    """GFPGAN v1.4 on aligned faces, and, where its weights are there, ParseNet for the outline that is pasted."""

    def __init__(self, gfpgan: GFPGANv1Clean, parser: ParseNet | None, device: Device) -> None:
        self._gfpgan = gfpgan.to(device.torch_device).eval()
        self._parser = parser.to(device.torch_device).eval() if parser is not None else None
        self._device = device.torch_device

    @classmethod
    def load(cls, gfpgan: dict[str, Tensor], parser: dict[str, Tensor] | None, device: Device) -> FaceRestorer:
        """Both state dicts are loaded strictly; without a parser the paste uses a square soft mask."""
        return cls(_build_gfpgan(gfpgan), _build_parser(parser) if parser is not None else None, device)

    def restore_into(self, canvas: Image, original: Image, faces: Sequence[Face], strength: float, advance: Advance) -> Image:
        """Restore the faces of `original` and paste them into `canvas`, an enlargement of it.

        Args:
            canvas: uint8 RGB `(h * s, w * s, 3)` for a whole s; it is changed in place.
            original: uint8 RGB `(h, w, 3)`, on which the faces were detected.
            faces: at least one.
            strength: 0–1, the share of the restored face; 1 is the face alone.
            advance: called after each batch of faces.

        Returns:
            `canvas`. Outside the faces' own rectangles not a pixel has changed.
        """
        scale = canvas.shape[0] // original.shape[0]
        for start in range(0, len(faces), BATCH_FACES):
            batch = faces[start : start + BATCH_FACES]
            restored = self.restore([align_face(original, face.alignment) for face in batch])
            for face, image, mask in zip(batch, restored, self.outline(restored), strict=True):
                paste_face(canvas, image, mask, paste_matrix(face.alignment, scale), scale, strength)
            advance(self.flops(len(batch)))
        return canvas

    def flops(self, count: int) -> float:
        """Work of that many faces, in FLOPs of a super-resolving pass that takes as long."""
        return RESTORATION_FLOPS * count

    @property
    def has_outline(self) -> bool:
        """Whether faces are pasted along their outline."""
        return self._parser is not None

    @torch.inference_mode()
    def restore(self, faces: Sequence[Image]) -> list[Image]:
        """Restore aligned faces, each uint8 RGB `(512, 512, 3)`; the same faces always give the same pixels."""
        # GFPGAN adds random noise by default; the stored noise gives the same request the same bytes.
        output, _ = self._gfpgan(_to_batch(faces, self._device), return_rgb=False, randomize_noise=False)
        pixels = ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(pixels.permute(0, 2, 3, 1).cpu().numpy())

    @torch.inference_mode()
    def outline(self, faces: Sequence[Image]) -> list[Mask | None]:
        """The soft outline of each restored face, float32 `(512, 512)` in 0–1, as facexlib makes it; None without a parser."""
        if self._parser is None:
            return [None] * len(faces)
        classes = self._parser(_to_batch(faces, self._device))[0].argmax(dim=1).cpu().numpy()
        return [_soften_outline(PARSED_AS_FACE[plane]) for plane in classes]


def _build_gfpgan(state_dict: dict[str, Tensor]) -> GFPGANv1Clean:
    """The architecture of v1.3 and v1.4 ("clean"), with the arguments of `GFPGANer`."""
    network = GFPGANv1Clean(
        out_size=FACE_PX,
        num_style_feat=512,
        channel_multiplier=2,
        fix_decoder=False,
        num_mlp=8,
        input_is_latent=True,
        different_w=True,
        sft_half=True,
    )
    network.load_state_dict(state_dict, strict=True)
    return network.requires_grad_(False)


def _build_parser(state_dict: dict[str, Tensor]) -> ParseNet:
    network = ParseNet(in_size=512, out_size=512, parsing_ch=19)
    network.load_state_dict(state_dict, strict=True)
    return network.requires_grad_(False)


def _to_batch(faces: Sequence[Image], device: torch.device) -> Tensor:
    """uint8 RGB `(512, 512, 3)` each, to float32 `(n, 3, 512, 512)` in −1–1."""
    pixels = torch.from_numpy(np.stack(faces)).to(device)
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def align_face(image: Image, alignment: Matrix) -> Image:
    """Cut one face out of uint8 RGB `(h, w, 3)` and turn it upright: uint8 RGB `(512, 512, 3)`."""
    return cast(
        Image,
        cv2.warpAffine(image, alignment, (FACE_PX, FACE_PX), borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER_GRAY_RGB),
    )


def paste_matrix(alignment: Matrix, scale: int) -> Matrix:
    """The affine `(2, 3)` from a restored face to the canvas, with facexlib's half-pixel offset."""
    matrix = cast(Matrix, cv2.invertAffineTransform(alignment)) * scale
    matrix[:, 2] += 0.5 * scale
    return matrix


def paste_face(canvas: Image, face: Image, outline: Mask | None, matrix: Matrix, scale: int, strength: float = 1.0) -> None:
    """Blend a restored face into uint8 RGB `canvas`, in place.

    facexlib warps every face and its mask to the whole canvas; all that lies outside the face's own rectangle is zero there,
    so warping to that rectangle alone gives the same picture. `outline` None asks for facexlib's square soft mask.
    """
    left, top, right, bottom = _paste_rectangle(matrix, canvas.shape[1], canvas.shape[0])
    if right <= left or bottom <= top:
        return
    size = (right - left, bottom - top)
    local = matrix - [[0, 0, left], [0, 0, top]]
    warped = cv2.warpAffine(face, local, size)
    if outline is None:
        mask = _square_mask(local, size, scale)
    else:
        mask = cast(Mask, cv2.warpAffine(outline, local, size, flags=cv2.INTER_AREA)[:, :, None])
    mask = mask * strength
    region = canvas[top:bottom, left:right]
    region[:] = mask * warped + (1 - mask) * region  # the cast truncates, as facexlib's does


def _paste_rectangle(matrix: Matrix, width: int, height: int) -> tuple[int, int, int, int]:
    """The rectangle of the warped face, with two pixels to spare for interpolation, within the canvas."""
    corners = np.array([[0, 0, 1], [FACE_PX, 0, 1], [0, FACE_PX, 1], [FACE_PX, FACE_PX, 1]]) @ matrix.T
    left, top = np.floor(corners.min(axis=0)).astype(int) - 2
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 2
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _square_mask(matrix: Matrix, size: tuple[int, int], scale: int) -> Mask:
    """facexlib's soft square, float32 `(h, w, 1)`: eroded, so that no black border shows, then blurred at its edge."""
    solid = cv2.erode(cv2.warpAffine(np.ones((FACE_PX, FACE_PX), np.float32), matrix, size), _ones(2 * scale))
    edge = int(solid.sum() ** 0.5) // 20
    center = cv2.erode(solid, _ones(2 * edge)) if edge else solid
    return cast(Mask, cv2.GaussianBlur(center, (2 * edge + 1, 2 * edge + 1), 0)[:, :, None])


def _ones(side: int) -> NDArray[np.uint8]:
    return np.ones((side, side), np.uint8)


def _soften_outline(inside: Mask) -> Mask:
    for _ in range(2):
        inside = cast(Mask, cv2.GaussianBlur(inside, (101, 101), 11))
    border = 10  # no face reaches into these; what the parser finds there is noise
    softened = np.zeros_like(inside)
    softened[border:-border, border:-border] = inside[border:-border, border:-border]
    return softened
