"""Faces restored: alignment, GFPGAN, the outline, paste-back.

All images are uint8 RGB here, and become BGR only where a model that was trained on BGR takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
import torch
from facexlib.parsing.parsenet import ParseNet
from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean
from numpy.typing import NDArray
from torch import Tensor

from core.progress import Progress
from models.device import Device, Image, noise, seconds_of
from models.face_detection import FACE_PX, Face, Matrix

Mask = NDArray[np.float32]

# A face, in FLOPs of a super-resolving pass that takes as long, on two cores; `measure` learns what it is elsewhere.
RESTORATION_FLOPS = 1.2e12
BATCH_FACES = 4  # faces restored at once

PARSED_AS_FACE = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0], np.float32)  # ParseNet's 19 classes


class FaceRestorer:
    """GFPGAN v1.4 on aligned faces, and, where its weights are there, ParseNet for the outline that is pasted."""

    _flops_per_face = RESTORATION_FLOPS

    def __init__(self, gfpgan: GFPGANv1Clean, parser: ParseNet | None, device: Device) -> None:
        self._gfpgan = gfpgan.to(device.torch_device).eval()
        self._parser = parser.to(device.torch_device).eval() if parser is not None else None
        self._device = device

    @classmethod
    def load(cls, gfpgan: dict[str, Tensor], parser: dict[str, Tensor] | None, device: Device) -> FaceRestorer:
        """Both state dicts are loaded strictly; without a parser the paste uses a square soft mask."""
        return cls(_build_gfpgan(gfpgan), _build_parser(parser) if parser is not None else None, device)

    def restore_into(
        self, canvas: Image, original: Image, faces: Sequence[Face], strength: float, progress: Progress
    ) -> Image:
        """Restore the faces of `original` and paste them into `canvas`, an enlargement of it.

        Args:
            canvas: uint8 or uint16 RGB `(h * s, w * s, 3)` for a whole s; it is changed in place.
            original: uint8 RGB `(h, w, 3)`, on which the faces were detected.
            faces: at least one.
            strength: 0–1, the share of the restored face; 1 is the face alone.
            progress: told of each batch of faces.

        Returns:
            `canvas`. Outside the faces' own rectangles not a pixel has changed.
        """
        scale = canvas.shape[0] // original.shape[0]
        for start in range(0, len(faces), BATCH_FACES):
            batch = faces[start : start + BATCH_FACES]
            restored = self.restore([align_face(original, face.alignment) for face in batch])
            for face, image, mask in zip(batch, restored, self.outline(restored), strict=True):
                paste_face(canvas, image, mask, paste_matrix(face.alignment, scale), scale, strength)
            progress.advance(self.flops(len(batch)))
        return canvas

    def flops(self, count: int) -> float:
        """Work of that many faces, in FLOPs of a super-resolving pass that takes as long."""
        return self._flops_per_face * count

    def measure(self, flops_per_second: float) -> None:
        """Learn the work of a face on this device, where a pass of super-resolution does so many FLOPs a second."""
        face = noise(FACE_PX)
        self._flops_per_face = flops_per_second * seconds_of(lambda: self.outline(self.restore([face])))

    @property
    def has_outline(self) -> bool:
        """Whether faces are pasted along their outline."""
        return self._parser is not None

    @torch.inference_mode()
    def restore(self, faces: Sequence[Image]) -> list[Image]:
        """Restore aligned faces, each uint8 RGB `(512, 512, 3)`; the same faces always give the same pixels."""
        # GFPGAN adds random noise by default; the stored noise gives the same request the same bytes.
        with self._device.current():
            output, _ = self._gfpgan(_to_batch(faces, self._device.torch_device), return_rgb=False, randomize_noise=False)
            pixels = ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            return list(pixels.permute(0, 2, 3, 1).cpu().numpy())

    @torch.inference_mode()
    def outline(self, faces: Sequence[Image]) -> list[Mask | None]:
        """The soft outline of each restored face, float32 `(512, 512)` in 0–1, as facexlib makes it; None without a parser."""
        if self._parser is None:
            return [None] * len(faces)
        with self._device.current():
            classes = self._parser(_to_batch(faces, self._device.torch_device))[0].argmax(dim=1).cpu().numpy()
        return [_soften_outline(PARSED_AS_FACE[plane]) for plane in classes]


def _build_gfpgan(state_dict: dict[str, Tensor]) -> GFPGANv1Clean:
    """The architecture of v1.3 and v1.4 ("clean"), with the arguments of `GFPGANer`."""
    gfpgan = GFPGANv1Clean(
        out_size=FACE_PX,
        num_style_feat=512,
        channel_multiplier=2,
        fix_decoder=False,
        num_mlp=8,
        input_is_latent=True,
        different_w=True,
        sft_half=True,
    )
    gfpgan.load_state_dict(state_dict, strict=True)
    return gfpgan.requires_grad_(False)


def _build_parser(state_dict: dict[str, Tensor]) -> ParseNet:
    parser = ParseNet(in_size=512, out_size=512, parsing_ch=19)
    parser.load_state_dict(state_dict, strict=True)
    return parser.requires_grad_(False)


def _to_batch(faces: Sequence[Image], device: torch.device) -> Tensor:
    """uint8 RGB `(512, 512, 3)` each, to float32 `(n, 3, 512, 512)` in −1–1."""
    pixels = torch.from_numpy(np.stack(faces)).to(device)
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def align_face(image: Image, alignment: Matrix) -> Image:
    """Cut one face out of uint8 RGB `(h, w, 3)` and turn it upright: uint8 RGB `(512, 512, 3)`.

    Beyond its edges the photograph is mirrored, as in the faces that GFPGAN was trained on. facexlib's gray there would
    come back as a line along the edge.
    """
    return cast(Image, cv2.warpAffine(image, alignment, (FACE_PX, FACE_PX), borderMode=cv2.BORDER_REFLECT))


def paste_matrix(alignment: Matrix, scale: int) -> Matrix:
    """The affine `(2, 3)` from a restored face to the canvas: centres of pixels to centres of pixels.

    The centre of the photograph's first pixel, 0, lies at (scale − 1) / 2 in the canvas. facexlib adds scale / 2.
    """
    matrix = cast(Matrix, cv2.invertAffineTransform(alignment)) * scale
    matrix[:, 2] += (scale - 1) / 2
    return matrix


def paste_face(canvas: Image, face: Image, outline: Mask | None, matrix: Matrix, scale: int, strength: float = 1.0) -> None:
    """Blend a restored face, uint8, into RGB `canvas`, uint8 or uint16, in place.

    facexlib warps every face and its mask to the whole canvas; all that lies outside the face's own rectangle is zero there,
    so warping to that rectangle alone gives the same picture. `outline` None asks for facexlib's square soft mask.
    """
    left, top, right, bottom = _paste_rectangle(matrix, canvas.shape[1], canvas.shape[0])
    if right <= left or bottom <= top:
        return
    size = (right - left, bottom - top)
    if canvas.dtype == np.uint16:
        face = face * np.uint16(257)
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
