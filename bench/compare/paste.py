"""Pasting restored faces into a large canvas: ours against facexlib's own code, with the same faces, compared."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np

from bench.images.photographs import Image, largest_difference, square
from bench.results import Sample
from models.face_detection import FACE_PX, Matrix
from models.face_restoration import paste_face, paste_matrix

from facexlib.utils.face_restoration_helper import FaceRestoreHelper  # isort: skip - after model_utility's shim

SCALE = 4


def measure_paste(rounds: int, width: int, height: int, face_count: int) -> Iterator[Sample]:
    """Seconds of both for all faces, in turns; and the largest difference of the two pictures, in grey levels.

    Raises:
        ValueError: they differ by more than two grey levels. One face differs by one at most, as a test holds; of several,
            facexlib rounds the sum once, downwards, and we each.
    """
    canvas = np.asarray(cv2.resize(square(512), (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    face = np.asarray(cv2.resize(square(512)[20:180, 150:310], (FACE_PX, FACE_PX)), np.uint8)
    alignments = [_alignment(index, face_count, width // SCALE, height // SCALE) for index in range(face_count)]
    for _ in range(rounds):
        ours = canvas.copy()
        start = time.perf_counter()
        for alignment in alignments:
            paste_face(ours, face, None, paste_matrix(alignment, SCALE), SCALE)
        between = time.perf_counter()
        theirs = _paste_with_facexlib(canvas, face, alignments)
        end = time.perf_counter()
        difference = largest_difference(ours, theirs)
        if difference > 2:
            raise ValueError(f"the faces that we paste differ from facexlib's by {difference} grey levels")
        yield {"ours, s": between - start, "facexlib, s": end - between, "difference, grey levels": difference}


def _alignment(index: int, count: int, width: int, height: int) -> Matrix:
    """The similarity that cuts the face out of a small picture: side by side, each at another angle, at least 80 px high."""
    side_px = 80 + 5 * index
    center = (width * (index + 0.5) / count, height * (0.3 + 0.4 * (index % 2)))
    matrix = np.array(cv2.getRotationMatrix2D(center, 8.0 * (index - count / 2), FACE_PX / side_px), np.float64)
    matrix[:, 2] += FACE_PX / 2 - np.array(center)
    return matrix


def _paste_with_facexlib(canvas: Image, face: Image, alignments: list[Matrix]) -> Image:
    """facexlib's helper in the state that GFPGANer brings it to, without the files that its constructor downloads."""
    helper = FaceRestoreHelper.__new__(FaceRestoreHelper)
    small = np.empty((canvas.shape[0] // SCALE, canvas.shape[1] // SCALE, 3), np.uint8)
    helper.__dict__ |= {"input_img": small, "upscale_factor": SCALE, "face_size": (FACE_PX, FACE_PX), "use_parse": False}
    helper.restored_faces = [face] * len(alignments)
    # It adds half a pixel too much, SCALE / 2, which we do not: here, too, the faces are where they belong.
    half = [[0, 0, 0.5], [0, 0, 0.5]]
    helper.inverse_affine_matrices = [cv2.invertAffineTransform(alignment) * SCALE - half for alignment in alignments]
    pasted: Image = helper.paste_faces_to_input_image(upsample_img=canvas)
    return pasted
