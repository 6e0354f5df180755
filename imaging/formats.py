"""File formats: which one a file has, how large its image is, what surrounds the pixels. No pixel is decoded here.

PNG, JPEG and BMP are opened by Pillow, the first two as `imaging.sanitize` leaves them; the others by `imaging.containers`.
Nothing else reaches a decoder.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

from PIL import AvifImagePlugin, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from core.config import INPUT_FORMATS, MAX_IMAGE_BYTES, MAX_PIXELS, MIB, TARGET_PX, InputFormat, either
from core.errors import AnimatedImage, BadRequest, BrokenImage, FileTooLarge, NotAnImage, TooManyPixels, UnsupportedFormat
from imaging.containers import gif, heif, tiff, webp
from imaging.containers.gif import GifHeader
from imaging.containers.heif import HeifHeader
from imaging.containers.png import PNG_SIGNATURE
from imaging.containers.tiff import TiffHeader
from imaging.sanitize import SanitizedFile, sanitize_jpeg, sanitize_png

RECOGNISED_BYTES = 4096  # at a file's start, which tell its format
MAX_EXIF_ENTRIES = 1000  # among which the orientation is looked for; cameras write some fifty

DIB_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)

# What people send by mistake: name, offset, signatures. The first that fits counts.
_OTHER_FORMATS: list[tuple[str, int, tuple[bytes, ...]]] = [
    ("BigTIFF", 0, (b"II+\0", b"MM\0+")),
    ("a video (MP4 or QuickTime)", 4, (b"ftyp",)),
    ("JPEG 2000", 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("JPEG XL", 0, (b"\0\0\0\x0cJXL ", b"\xff\x0a")),
    ("PDF", 0, (b"%PDF",)),
    ("Photoshop (PSD)", 0, (b"8BPS",)),
    ("ICO", 0, (b"\0\0\1\0",)),
    ("OpenEXR", 0, (b"\x76\x2f\x31\x01",)),
    ("a ZIP archive", 0, (b"PK\3\4",)),
]
_MARKUP = [("SVG or other XML", (b"<svg", b"<?xml")), ("an HTML page", (b"<!doctype html", b"<html"))]


@dataclass(frozen=True)
class InputLimits:
    """What is taken: files of at most so many bytes, of these formats."""

    max_bytes: int = MAX_IMAGE_BYTES
    formats: tuple[InputFormat, ...] = INPUT_FORMATS

    @property
    def allowed(self) -> str:
        """The formats, in words."""
        return either(self.formats)


@dataclass(frozen=True)
class OpenedImage:
    """A file whose header has been read. It holds the file and no decoder: that of a WebP holds two pictures of its size."""

    format_name: InputFormat
    file: SanitizedFile
    mode: str  # of Pillow
    size: tuple[int, int]  # width and height in pixels, as they are in the file
    is_gray: bool
    has_alpha: bool
    orientation: int | None  # 1 to 8 as in the EXIF standard, 1 where nothing is said, None where the data is damaged
    header: TiffHeader | GifHeader | HeifHeader | None = None  # what else the decoders of these want to know
    is_in_runs: bool = False  # a BMP with RLE

    @classmethod
    def of(cls, name: InputFormat, image: ImageFile, file: SanitizedFile) -> OpenedImage:
        """What Pillow has read of a file's header; `image` is closed."""
        is_gray = image.mode in ("1", "L", "LA", "I;16") if file.is_gray is None else file.is_gray
        has_alpha = file.color_key is not None or image.has_transparency_data
        is_in_runs = any(tile.codec_name == "bmp_rle" for tile in image.tile)
        with closing(image):
            return cls(
                *(name, file, image.mode, image.size, is_gray, has_alpha, _read_orientation(file.exif)), is_in_runs=is_in_runs
            )

    def load(self, after: bytes = b"") -> ImageFile:
        """Decode the pixels with Pillow; `after` is the end of the file. The caller closes the image.

        Raises:
            ValueError: they are of another size than the header says.
        """
        image = _PLUGINS[self.format_name](io.BytesIO(self.file.data + after))
        image.load()
        if image.size != self.size:
            raise ValueError(f"{image.size} pixels")
        return image

    @property
    def width(self) -> int:
        """In pixels, once it is upright."""
        return self.size[(self.orientation or 1) >= 5]

    @property
    def height(self) -> int:
        """In pixels, once it is upright."""
        return self.size[(self.orientation or 1) < 5]


@contextmanager
def memory_errors() -> Iterator[None]:
    """Some of Pillow's codecs have other names for a lack of memory."""
    try:
        yield
    except (OSError, ValueError) as exc:
        if str(exc).startswith("out of memory") or str(exc) in ("encoding error 1", "encoding error 2"):  # libwebp's codes
            raise MemoryError(str(exc)) from exc
        raise


@contextmanager
def translate_errors(format_name: str | None) -> Iterator[None]:
    """Pillow raises nearly anything on damaged files; here it becomes a BadRequest. A lack of memory stays what it is."""
    try:
        with memory_errors():
            yield
    except (BadRequest, MemoryError):
        raise
    except Image.DecompressionBombError as exc:
        raise too_many_pixels() from exc
    except Exception as exc:
        raise BrokenImage(
            f"The {format_name} file is damaged, incomplete or of a rare variant. Save it anew as PNG or JPEG and send that."
        ) from exc


def too_many_pixels() -> TooManyPixels:
    """What is said of an image that is too large to be opened."""
    side = TARGET_PX["8k"]
    return TooManyPixels(f"The image has more than {MAX_PIXELS:,} pixels ({side}×{side}), the most that is opened.")


def open_image(data: bytes, limits: InputLimits = InputLimits()) -> OpenedImage:
    """Recognise a file by its first bytes and read its header. The file may be opened once and decoded once.

    Raises:
        FileTooLarge, NotAnImage, UnsupportedFormat, BrokenImage, AnimatedImage, TooManyPixels: each for what it says.
    """
    if len(data) > limits.max_bytes:
        limit = f"{limits.max_bytes:,} ({limits.max_bytes // MIB} MB)"
        raise FileTooLarge(f"The image file has {len(data):,} bytes; at most {limit} are accepted.")
    if not data:
        raise NotAnImage("The image is empty: it has no bytes.")
    format_name = _recognise(data)
    if format_name is None:
        raise NotAnImage(f"The data is not an image that this service recognises. Send {limits.allowed}.")
    if format_name not in limits.formats:
        raise UnsupportedFormat(f"The file is {format_name}, which is not supported. Send {limits.allowed}.")
    with translate_errors(format_name):
        opened = _OPENERS[format_name](data)
    if opened.width * opened.height > MAX_PIXELS:
        raise too_many_pixels()
    if (frame_count := opened.file.frame_count) > 1:
        frames = "pages" if format_name == "TIFF" else "frames"
        raise AnimatedImage(f"The {format_name} file has {frame_count} {frames}: send a single still image.")
    return opened


def is_image(start: bytes) -> bool:
    """Whether a file that begins with these bytes, up to RECOGNISED_BYTES of it, is of a format that can be opened."""
    return _recognise(start) in INPUT_FORMATS


def _recognise(data: bytes) -> str | None:
    """The name of a format, which may be one that nobody asked for; None: of none that is known."""
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        return "WebP"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in DIB_HEADER_BYTES:  # "BM" alone begins many a text
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"ftyp", 4) and (name := _name_of_heif(heif.brands(data))):
        return name
    return _name_of_other(data[:100])


def _name_of_heif(brands: list[bytes]) -> str | None:
    """The first brand that tells the codec decides; the general ones say nothing of it."""
    for brand in brands:
        if brand in (b"avif", b"avis"):
            return "AVIF"
        if brand.startswith((b"hei", b"hev")):
            return "HEIC"
    return "HEIC" if brands[0] in (b"mif1", b"msf1") else None


def _name_of_other(start: bytes) -> str | None:
    markup = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    names = [name for name, offset, signatures in _OTHER_FORMATS if start.startswith(signatures, offset)]
    names += [name for name, signatures in _MARKUP if markup.startswith(signatures)]
    return names[0] if names else None


# The plugins' classes are called directly, not through Image.open: that would also look for multi-picture JPEGs (telephones
# write them; their first frame is the photograph) and warn, globally, about sizes that we judge ourselves.


def _open_png(data: bytes) -> OpenedImage:
    file = sanitize_png(data)
    return OpenedImage.of("PNG", PngImageFile(io.BytesIO(file.data)), file)


def _open_jpeg(data: bytes) -> OpenedImage:
    file = sanitize_jpeg(data)
    return OpenedImage.of("JPEG", JpegImageFile(io.BytesIO(file.data)), file)


def _open_bmp(data: bytes) -> OpenedImage:
    image = BmpImageFile(io.BytesIO(data))
    across, down = image.info.get("dpi", (0, 0))
    density = (across, down) if across > 0 and down > 0 else None
    return OpenedImage.of("BMP", image, SanitizedFile(data, icc_profile=_bmp_profile(data), density=density))


def _bmp_profile(data: bytes) -> bytes | None:
    """That of a BITMAPV5HEADER whose colour space is PROFILE_EMBEDDED."""
    if int.from_bytes(data[14:18], "little") != 124 or data[70:74] != b"DEBM":
        return None
    start, size = struct.unpack_from("<II", data, 126)
    return data[14 + start : 14 + start + size]


def _open_webp(data: bytes) -> OpenedImage:
    header = webp.read_header(data)
    file = SanitizedFile(header.essential, header.exif, header.icc_profile, header.frame_count, xmp=header.xmp)
    mode = "RGBA" if header.has_alpha else "RGB"
    return OpenedImage("WebP", file, mode, header.size, False, header.has_alpha, _read_orientation(header.exif))


def _open_tiff(data: bytes) -> OpenedImage:
    header = tiff.read_header(data)
    depth = max(header.depth, 8)
    file = SanitizedFile(data, data, header.icc_profile, header.page_count, depth=depth, xmp=header.xmp)  # it is EXIF's format
    mode = "CMYK" if header.photometric == tiff.INKS else "RGB"
    has_alpha = header.alpha is not None
    return OpenedImage("TIFF", file, mode, header.size, header.is_gray, has_alpha, header.orientation, header)


def _open_gif(data: bytes) -> OpenedImage:
    header = gif.read_header(data)
    file = SanitizedFile(data, frame_count=header.frame_count)
    return OpenedImage("GIF", file, "P", header.size, header.is_gray, header.has_alpha, 1, header)


def _open_heif(name: InputFormat, data: bytes) -> OpenedImage:
    header = heif.read_header(data, is_avif=name == "AVIF")
    file = SanitizedFile(data, header.exif, header.icc_profile, header.frame_count, cicp=header.cicp, xmp=header.xmp)
    mode = "RGBA" if header.has_alpha else "RGB"
    return OpenedImage(name, file, mode, header.size, header.is_gray, header.has_alpha, header.orientation, header)


AvifImagePlugin.DEFAULT_MAX_THREADS = 1
_PLUGINS: dict[str, type[ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "BMP": BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_OPENERS: dict[str, Callable[[bytes], OpenedImage]] = {
    "PNG": _open_png,
    "JPEG": _open_jpeg,
    "WebP": _open_webp,
    "BMP": _open_bmp,
    "TIFF": _open_tiff,
    "AVIF": partial(_open_heif, "AVIF"),
    "HEIC": partial(_open_heif, "HEIC"),
    "GIF": _open_gif,
}


def _read_orientation(exif: bytes) -> int | None:
    """Only this one tag is looked for: Pillow's reader parses all of them, and warns, globally, about each that is odd."""
    tiff = exif.removeprefix(b"Exif\0\0")
    if not tiff:
        return 1
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * min(count, MAX_EXIF_ENTRIES), 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], tiff, entry + 8)
                return {0: 1}.get(value, value if 1 <= value <= 8 else None)  # 0: cameras that did not know
    except (struct.error, KeyError):
        return None
    return 1
