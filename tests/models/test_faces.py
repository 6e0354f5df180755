"""Faces: the real detector on a real photograph, GFPGAN's real architecture with seeded weights, facexlib's own paste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from facexlib.detection import retinaface, retinaface_utils
from facexlib.detection.retinaface import RetinaFace
from facexlib.parsing.parsenet import ParseNet
from facexlib.utils.face_restoration_helper import FaceRestoreHelper
from numpy.typing import NDArray
from PIL import Image as PILImage

from core.progress import NullProgress
from imaging.picture import Picture
from model_utility import Models, ModelStatus
from models.checkpoint import load_state_dict
from models.device import Image, select_device
from models.face_detection import FACE_PX, FACE_TEMPLATE, Face, FaceDetector, Matrix, PriorBox
from models.face_restoration import FaceRestorer, _build_parser, align_face, paste_face, paste_matrix
from schemas.params import UpscaleParams
from schemas.plan import Plan, Size, plan_upscale
from tests.helpers import WEIGHTS, FakeResolver, max_difference, sample_crop
from upscale import PipelineOutput, Upscaler

from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean  # isort: skip - after models has prepared the process

SAMPLE = sample_crop(480, 300)
DEVICE = select_device("cpu", "fp32")
NO_PARSER = {"face_parsing": ModelStatus(reason="parser.pth is missing")}

pytestmark = pytest.mark.usefixtures("one_torch_thread")


NOBODY = NullProgress()


def run(models: Models, picture: Picture, plan: Plan, **params: Any) -> PipelineOutput:
    return Upscaler(models).run(picture, plan, UpscaleParams(**params), NOBODY)


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector.load(load_state_dict(WEIGHTS / "detection_mobilenet0.25_Final.pth"), "mobile0.25", DEVICE)


@pytest.fixture(scope="module")
def gfpgan() -> GFPGANv1Clean:
    """The network that a GFPGANv1.4.pth is for, with seeded weights: the official ones cannot be shipped."""
    torch.manual_seed(14)
    network = GFPGANv1Clean(
        512,
        num_style_feat=512,
        channel_multiplier=2,
        fix_decoder=False,
        num_mlp=8,
        input_is_latent=True,
        different_w=True,
        sft_half=True,
    )
    for weight in network.state_dict().values():
        if weight.shape == (1,):  # the strength of a noise, which starts at 0
            weight += 0.1
    return network.eval()


class Remembering(torch.nn.Module):
    """A network that runs once for the same faces: it takes seconds, and most tests are about what surrounds it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self._network = network
        self._known: dict[bytes, Any] = {}

    def forward(self, faces: torch.Tensor, **options: bool) -> Any:
        key = faces.numpy().tobytes() + repr(options).encode()
        if key not in self._known:
            self._known[key] = self._network(faces, **options)
        return self._known[key]


@pytest.fixture(scope="module")
def restorer(gfpgan: GFPGANv1Clean) -> FaceRestorer:
    loaded = FaceRestorer.load(gfpgan.state_dict(), None, DEVICE)
    return FaceRestorer(Remembering(loaded._gfpgan), None, DEVICE)


@pytest.fixture(scope="module")
def face(detector: FaceDetector) -> Face:
    (face,) = detector.detect(SAMPLE)
    return face


def test_the_face_of_the_sample_is_found_where_it_is(face: Face) -> None:
    left, top, right, bottom = face.box
    assert (140, 20) < (left, top) < (190, 70)
    assert (220, 120) < (right, bottom) < (270, 170)
    right_eye, left_eye, nose, *_mouth = face.landmarks
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] < nose[1]


@pytest.mark.parametrize("image", [np.zeros((1, 1, 3), np.uint8), np.zeros((15, 400, 3), np.uint8), SAMPLE[:, 300:]])
def test_no_face_is_found_where_there_is_none(detector: FaceDetector, image: Image) -> None:
    assert detector.detect(image) == []


def test_the_large_detector_loads_strictly_and_runs() -> None:
    torch.manual_seed(50)
    weights = RetinaFace("resnet50", device=torch.device("cpu")).state_dict()
    found = FaceDetector.load(weights, "resnet50", DEVICE).detect(sample_crop(64, 48))
    assert all(isinstance(face, Face) for face in found)  # where, only its trained weights would know


def test_a_large_photograph_is_searched_on_a_bounded_copy_and_answered_at_full_size(
    detector: FaceDetector, face: Face
) -> None:
    (found,) = detector.detect(np.asarray(PILImage.fromarray(SAMPLE).resize((480 * 6, 300 * 6))))
    assert np.allclose(found.landmarks, face.landmarks * 6, atol=6 * 3)


def test_restoration_equals_gfpganer(restorer: FaceRestorer, gfpgan: GFPGANv1Clean, face: Face) -> None:
    """GFPGANer's arithmetic around the network, and the network itself with its stored noise instead of random noise."""
    crop = align_face(SAMPLE, face.alignment)
    normalized = torch.from_numpy(crop.astype(np.float32) / 255).permute(2, 0, 1)[None].sub(0.5).div(0.5)
    with torch.no_grad():
        output = gfpgan(normalized, return_rgb=False, randomize_noise=False)[0][0]
    expected = ((output.clamp(-1, 1) + 1) / 2 * 255).round().permute(1, 2, 0).numpy()
    (restored,) = restorer.restore([crop])
    assert restored.dtype == np.uint8
    assert restored.std() > 1
    assert max_difference(restored, expected) <= 1


def reference_helper(face: Face, scale: int, parser: Any = None) -> FaceRestoreHelper:
    """facexlib's helper in the state that GFPGANer brings it to, without the files that its constructor downloads."""
    helper = FaceRestoreHelper.__new__(FaceRestoreHelper)
    helper.__dict__ |= {
        "input_img": SAMPLE,
        "upscale_factor": scale,
        "face_size": (FACE_PX, FACE_PX),
        "face_template": np.array(
            [
                [192.98138, 239.94708],
                [318.90277, 240.1936],
                [256.63416, 314.01935],
                [201.26117, 371.41043],
                [313.08905, 371.15118],
            ]
        ),
        "pad_blur": False,
        "all_landmarks_5": [face.landmarks],
        "affine_matrices": [],
        "inverse_affine_matrices": [],
        "cropped_faces": [],
        "restored_faces": [],
        "use_parse": parser is not None,
        "face_parse": parser,
        "device": torch.device("cpu"),
    }
    helper.align_warp_face()
    helper.get_inverse_affine()
    for matrix in helper.inverse_affine_matrices:
        matrix[:, 2] -= 0.5  # half a pixel of the canvas too much is added when it pastes
    return helper


def test_alignment_equals_facexlib(face: Face) -> None:
    helper = reference_helper(face, 2)
    assert np.allclose(helper.affine_matrices[0], face.alignment)
    crop = helper.cropped_faces[0]
    inside = cv2.warpAffine(np.ones(SAMPLE.shape[:2], np.uint8), face.alignment, (FACE_PX, FACE_PX)) > 0
    assert np.array_equal(crop[inside], align_face(SAMPLE, face.alignment)[inside])


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(
    "shift", [(0, 0), (-150, -60), (330, 190)], ids=["inside", "over the corner", "over the other corner"]
)
def test_the_paste_equals_facexlib_within_one_grey_level(face: Face, scale: int, shift: tuple[int, int]) -> None:
    moved = Face(face.box, face.landmarks + shift, _moved(face.alignment, shift))
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    restored = np.asarray(PILImage.fromarray(noise).resize((FACE_PX, FACE_PX)))
    canvas = SAMPLE.repeat(scale, 0).repeat(scale, 1)
    helper = reference_helper(moved, scale)
    helper.add_restored_face(restored)
    expected = helper.paste_faces_to_input_image(upsample_img=canvas)
    pasted = canvas.copy()
    paste_face(pasted, restored, None, paste_matrix(moved.alignment, scale), scale)
    assert max_difference(pasted, canvas) > 10
    assert max_difference(pasted, expected) <= 1


class IdentityRestorer(FaceRestorer):
    """Gives each face back as it was cut out."""

    def restore(self, faces: Sequence[Image]) -> list[Image]:
        return list(faces)


def smooth(height: int, width: int) -> Image:
    """Waves in each channel, some 40 px long: bilinear interpolation, twice, changes them by a grey level or two."""
    y, x = np.mgrid[:height, :width]
    phases = (x / 6, y / 7, (x + y) / 9)
    return np.stack([np.round(128 + 100 * np.sin(phase)) for phase in phases], axis=2).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("outlined", [False, True])
@pytest.mark.parametrize("shift", [(0, 0), (-190, -30), (150, 20), (-30, -80), (20, 110), (-200, -90), (170, 120)], ids=str)
def test_a_face_that_is_not_changed_is_pasted_where_it_was(
    face: Face, scale: int, outlined: bool, shift: tuple[int, int]
) -> None:
    """Nothing moves, and a face that the photograph's edge cuts leaves no line along it."""
    photograph = smooth(200, 320)
    moved = Face(face.box, face.landmarks + shift, _moved(face.alignment, shift))
    canvas = np.asarray(cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
    identity = IdentityRestorer(torch.nn.Identity(), EllipseParser() if outlined else None, DEVICE)
    pasted = identity.restore_into(canvas.copy(), photograph, [moved], 1.0, NOBODY)
    difference = np.abs(pasted.astype(int) - canvas)
    assert difference.any()
    assert difference.max() <= 6
    assert difference[difference > 0].mean() < 2


def _moved(alignment: Matrix, shift: tuple[int, int]) -> Matrix:
    moved = alignment.copy()
    moved[:, 2] -= alignment[:, :2] @ shift
    return moved


class EllipseParser(torch.nn.Module):
    """Sees a face in the middle ellipse of every picture: a trained ParseNet's outline, without its 85 MB."""

    def forward(self, faces: torch.Tensor) -> tuple[torch.Tensor, None]:
        y, x = torch.meshgrid(torch.linspace(-1, 1, FACE_PX), torch.linspace(-1, 1, FACE_PX), indexing="ij")
        inside = (x / 0.6) ** 2 + (y / 0.8) ** 2 < 1
        logits = torch.zeros(len(faces), 19, FACE_PX, FACE_PX)
        logits[:, 1] = inside.float() - 0.5
        return logits, None


def test_the_paste_into_sixteen_bits_is_that_into_eight(face: Face) -> None:
    restored, matrix = SAMPLE[:256, :256].repeat(2, 0).repeat(2, 1), paste_matrix(face.alignment, 2)
    canvas: Image = SAMPLE.repeat(2, 0).repeat(2, 1)
    wide: Image = canvas * np.uint16(257)
    for pasted in (canvas, wide):
        paste_face(pasted, restored, None, matrix, 2)
    assert np.abs(wide / 257 - canvas).max() <= 1.5
    assert (wide % 257 > 0).any()


def test_the_paste_along_an_outline_equals_facexlib(face: Face) -> None:
    restored = np.asarray(PILImage.fromarray(SAMPLE[40:168, 150:278]).resize((FACE_PX, FACE_PX)))
    canvas = SAMPLE.repeat(2, 0).repeat(2, 1)
    helper = reference_helper(face, 2, EllipseParser())
    helper.add_restored_face(restored)
    expected = helper.paste_faces_to_input_image(upsample_img=canvas)
    (outline,) = FaceRestorer(torch.nn.Identity(), EllipseParser(), DEVICE).outline([restored])
    pasted = canvas.copy()
    paste_face(pasted, restored, outline, paste_matrix(face.alignment, 2), 2)
    assert max_difference(pasted, canvas) > 10
    difference = np.abs(pasted.astype(int) - expected)  # both round positions to 1/32 px, from other corners
    assert difference.max() <= 2
    assert (difference > 1).mean() < 1e-4


def test_parsenet_loads_strictly_and_outlines_a_face(face: Face) -> None:
    torch.manual_seed(3)
    weights = ParseNet(in_size=512, out_size=512, parsing_ch=19).state_dict()
    restorer = FaceRestorer(torch.nn.Identity(), _build_parser(weights), DEVICE)
    (outline,) = restorer.outline([align_face(SAMPLE, face.alignment)])
    assert outline is not None
    assert outline.shape == (FACE_PX, FACE_PX)
    assert 0 <= outline.min() <= outline.max() <= 1.001
    assert not outline[:10].any()


def test_restoring_changes_the_face_and_nothing_outside_it(restorer: FaceRestorer, detector: FaceDetector) -> None:
    """The whole pipeline, with a model that only repeats pixels: whatever else changes, the faces changed it."""
    models = Models({"photo": FakeResolver()}, detector, restorer, NO_PARSER)  # type: ignore[dict-item]
    upscaled = run(models, Picture(SAMPLE), plan_upscale(Size(480, 300), "2k"))
    assert (len(upscaled.faces), upscaled.faces_enhanced) == (1, True)
    assert upscaled.warnings == ("Faces were pasted with a square soft mask: parser.pth is missing.",)
    changed = (upscaled.picture.pixels != SAMPLE.repeat(4, 0).repeat(4, 1)).any(axis=2)
    rows, columns = np.nonzero(changed)
    (face,) = detector.detect(SAMPLE)
    left, top, right, bottom = (side * 4 for side in face.box)
    assert changed[int(top + bottom) // 2, int(left + right) // 2]
    width, height = right - left, bottom - top
    assert rows.min() > top - height
    assert rows.max() < bottom + height
    assert columns.min() > left - width
    assert columns.max() < right + width


@pytest.mark.parametrize("outlined", [False, True])
def test_strength_blends_the_restored_face_with_the_enlarged_original(
    restorer: FaceRestorer, face: Face, outlined: bool
) -> None:
    if outlined:
        restorer = FaceRestorer(restorer._gfpgan, EllipseParser(), DEVICE)
    canvas = SAMPLE.repeat(2, 0).repeat(2, 1)
    none, half, full = (
        restorer.restore_into(canvas.copy(), SAMPLE, [face], strength, NOBODY).astype(float) for strength in (0.0, 0.5, 1.0)
    )
    assert np.array_equal(none, canvas)
    assert np.abs(full - canvas).max() > 50
    assert np.abs(half - (full + canvas) / 2).max() <= 1
    pasted = canvas.copy()
    (restored,) = restorer.restore([align_face(SAMPLE, face.alignment)])
    paste_face(pasted, restored, restorer.outline([restored])[0], paste_matrix(face.alignment, 2), 2)
    assert np.array_equal(full, pasted)


def test_faces_of_no_strength_are_found_and_not_restored(detector: FaceDetector) -> None:
    models = Models({"photo": FakeResolver()}, detector, FaceRestorer.__new__(FaceRestorer))  # type: ignore[dict-item]
    upscaled = run(models, Picture(SAMPLE), plan_upscale(Size(480, 300), "2k"), face_strength=0)
    assert (len(upscaled.faces), upscaled.faces_enhanced, upscaled.warnings) == (1, False, ())
    assert np.array_equal(upscaled.picture.pixels, SAMPLE.repeat(4, 0).repeat(4, 1))


def test_faces_are_restored_once_in_the_first_of_several_passes(restorer: FaceRestorer, detector: FaceDetector) -> None:
    calls: list[int] = []

    class Counting(FaceRestorer):
        has_outline = True

        def restore_into(self, canvas: Image, original: Image, *rest: Any) -> Image:
            calls.append(canvas.shape[0] // original.shape[0])
            return canvas

    counting = Counting.__new__(Counting)
    models = Models({"photo": FakeResolver()}, detector, counting)  # type: ignore[dict-item]
    plan = plan_upscale(Size(480, 300), "4k")
    assert plan.passes == (4, 2)
    run(models, Picture(SAMPLE), plan)
    assert calls == [4]


class Tinting(torch.nn.Module):
    """A restorer that makes every face orange."""

    def forward(self, faces: torch.Tensor, **_options: bool) -> tuple[torch.Tensor, None]:
        return faces * torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1), None


def test_faces_of_a_gray_picture_stay_gray(detector: FaceDetector) -> None:
    gray = np.array(PILImage.fromarray(SAMPLE).convert("L"))
    models = Models({"photo": FakeResolver()}, detector, FaceRestorer(Tinting(), None, DEVICE), NO_PARSER)  # type: ignore[dict-item]
    upscaled = run(models, Picture(gray), plan_upscale(Size(480, 300), "2k"))
    assert upscaled.faces_enhanced
    assert upscaled.picture.pixels.shape == (1200, 1920)
    assert (upscaled.picture.pixels[:40] == gray.repeat(4, 0).repeat(4, 1)[:40]).all()


@pytest.mark.parametrize("width", [330, 700, 1200, 2400])
@pytest.mark.parametrize("crop", [(55, 145, 155, 255), (25, 165, 135, 275), (0, 200, 100, 310)], ids=["face", "head", "bust"])
def test_one_face_is_found_once_however_large_it_is(
    detector: FaceDetector, face: Face, crop: tuple[int, int, int, int], width: int
) -> None:
    top, bottom, left, right = crop
    scale = width / (right - left)
    close_up = cv2.resize(SAMPLE[top:bottom, left:right], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    (found,) = detector.detect(np.asarray(close_up, np.uint8))
    assert np.abs(found.landmarks / scale + (left, top) - face.landmarks).max() < 10


class Finding(torch.nn.Module):
    """A detector that finds the same boxes, given as shares of the image's sides, with their scores, in every image."""

    def __init__(self, *found: tuple[tuple[float, float, float, float], float]) -> None:
        super().__init__()
        self._found = found

    def detect_faces(self, image: Image, _threshold: float) -> NDArray[np.float32]:
        height, width = image.shape[:2]
        rows = []
        for (left, top, right, bottom), score in self._found:
            corner, size = np.array([left * width, top * height]), np.array([(right - left) * width, (bottom - top) * height])
            landmarks = (FACE_TEMPLATE / FACE_PX) * size + corner
            rows.append([left * width, top * height, right * width, bottom * height, score, *landmarks.ravel()])
        return np.array(rows, np.float32).reshape(-1, 15)


@pytest.mark.parametrize("size", [(300, 400), (900, 1200), (3000, 4000)])
@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ([(0.2, 0.2, 0.4, 0.5), (0.25, 0.3, 0.35, 0.45)], [0]),  # one within the other
        ([(0.2, 0.2, 0.4, 0.5), (0.28, 0.22, 0.48, 0.52)], [0]),  # beside it, as IoU of 0.4 does not tell
        ([(0.2, 0.2, 0.4, 0.5), (0.27, 0.3, 0.43, 0.5), (0.1, 0.2, 0.29, 0.5)], [0, 2]),
        ([(0.2, 0.2, 0.4, 0.5), (0.35, 0.2, 0.55, 0.5)], [0, 1]),  # cheek to cheek
        ([(0.1, 0.2, 0.3, 0.5), (0.6, 0.2, 0.8, 0.5)], [0, 1]),
        ([], []),
    ],
)
def test_boxes_that_lie_mostly_on_a_better_one_are_of_the_same_face(
    size: tuple[int, int], found: list[tuple[float, float, float, float]], kept: list[int]
) -> None:
    height, width = size
    finding = Finding(*((box, 0.999 - 0.001 * rank) for rank, box in enumerate(found)))
    faces = FaceDetector(finding, DEVICE, 1.0).detect(np.zeros((height, width, 3), np.uint8))
    expected = [np.array(found[index]) * (width, height, width, height) for index in kept]
    assert len(faces) == len(expected)
    for one, box in zip(faces, expected, strict=True):
        assert np.allclose(one.box, box, atol=0.01 * width)


@pytest.mark.parametrize("size", [(16, 16), (37, 640), (101, 53)])
def test_anchors_are_facexlibs(size: tuple[int, int]) -> None:
    cfg = retinaface.generate_config("mobile0.25")
    theirs = retinaface_utils.PriorBox(cfg, image_size=size).forward()
    assert torch.equal(PriorBox(cfg, size).forward(), theirs)
    assert retinaface.PriorBox is PriorBox
