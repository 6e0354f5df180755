"""File formats: which one a file has, how large its image is, what surrounds the pixels. No pixel is decoded here.

PNG, JPEG, WebP and BMP are opened, PNG and JPEG as `imaging.sanitize` leaves them. Nothing else reaches Pillow.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from core.config import MAX_IMAGE_BYTES, MIB, TARGET_PX
from core.errors import AnimatedImage, BadRequest, BrokenImage, FileTooLarge, NotAnImage, TooManyPixels, UnsupportedFormat
from imaging.sanitize import PNG_SIGNATURE, SanitizedFile, sanitize_jpeg, sanitize_png
from imaging.webp import read_header

MAX_PIXELS = TARGET_PX["8k"] ** 2  # 58,982,400: nothing larger can become smaller than the largest target

MAX_EXIF_ENTRIES = 1000  # among which the orientation is looked for; cameras write some fifty

ALLOWED = "PNG, JPEG, WebP or BMP"
ALLOWED_OTHERS = "PNG, JPEG or WebP"
DIB_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)

# What people send by mistake: name, offset, signatures. The first that fits counts.
_OTHER_FORMATS: list[tuple[str, int, tuple[bytes, ...]]] = [
    ("GIF", 0, (b"GIF8",)),
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("AVIF", 4, (b"ftypavi",)),
    ("HEIC", 4, (b"ftyphe", b"ftypmif1", b"ftypmsf1")),
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
class OpenedImage:
    """A file whose header has been read. It holds the file and no decoder: that of a WebP holds two pictures of its size."""

    plugin: type[ImageFile]
    file: SanitizedFile
    mode: str  # of Pillow
    size: tuple[int, int]  # width and height in pixels, as they are in the file
    is_gray: bool
    has_alpha: bool
    orientation: int | None  # 1 to 8 as in the EXIF standard, 1 where nothing is said, None where the data is damaged

    @classmethod
    def of(cls, image: ImageFile, file: SanitizedFile) -> OpenedImage:
        """What Pillow has read of a file's header; `image` is closed."""
        is_gray = image.mode in ("1", "L", "LA", "I;16") if file.is_gray is None else file.is_gray
        has_alpha = file.color_key is not None or image.has_transparency_data
        with closing(image):
            return cls(type(image), file, image.mode, image.size, is_gray, has_alpha, _read_orientation(file.exif))

    def load(self) -> ImageFile:
        """Decode the pixels. The caller closes the image."""
        image = self.plugin(io.BytesIO(self.file.data))
        image.load()
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
        raise _too_many_pixels() from exc
    except Exception as exc:
        raise BrokenImage(
            f"The {format_name} file is damaged, incomplete or of a rare variant. Save it anew as PNG or JPEG and send that."
        ) from exc


def _too_many_pixels() -> TooManyPixels:
    side = TARGET_PX["8k"]
    return TooManyPixels(f"The image has more than {MAX_PIXELS:,} pixels ({side}×{side}), the most that is opened.")


def open_image(data: bytes) -> OpenedImage:
    """Recognise a file by its first bytes and read its header. The file may be opened once and decoded once.

    Raises:
        FileTooLarge, NotAnImage, UnsupportedFormat, BrokenImage, AnimatedImage, TooManyPixels: each for what it says.
    """
    if len(data) > MAX_IMAGE_BYTES:
        limit = f"{MAX_IMAGE_BYTES:,} ({MAX_IMAGE_BYTES // MIB} MB)"
        raise FileTooLarge(f"The image file has {len(data):,} bytes; at most {limit} are accepted.")
    format_name = _recognise(data)
    with translate_errors(format_name):
        opened = _OPENERS[format_name](data)
    if opened.width * opened.height > MAX_PIXELS:
        raise _too_many_pixels()
    if opened.file.frame_count > 1:
        raise AnimatedImage(f"The {format_name} file has {opened.file.frame_count} frames: send a single still image.")
    return opened


def _recognise(data: bytes) -> str:
    if not data:
        raise NotAnImage("The image is empty: it has no bytes.")
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        return "WebP"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in DIB_HEADER_BYTES:  # "BM" alone begins many a text
        return "BMP"
    if name := _name_of_other(data[:100]):
        raise UnsupportedFormat(f"The file is {name}, which is not supported. Send {ALLOWED}.")
    raise NotAnImage(f"The data is not an image that this service recognises. Send {ALLOWED}.")


def _name_of_other(start: bytes) -> str | None:
    markup = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    names = [name for name, offset, signatures in _OTHER_FORMATS if start.startswith(signatures, offset)]
    names += [name for name, signatures in _MARKUP if markup.startswith(signatures)]
    return names[0] if names else None


# The plugins' classes are called directly, not through Image.open: that would also look for multi-picture JPEGs (telephones
# write them; their first frame is the photograph) and warn, globally, about sizes that we judge ourselves.


def _open_png(data: bytes) -> OpenedImage:
    file = sanitize_png(data)
    return OpenedImage.of(PngImageFile(io.BytesIO(file.data)), file)


def _open_jpeg(data: bytes) -> OpenedImage:
    file = sanitize_jpeg(data)
    return OpenedImage.of(JpegImageFile(io.BytesIO(file.data)), file)


def _open_webp(data: bytes) -> OpenedImage:
    header = read_header(data)
    file = SanitizedFile(data, header.exif, header.icc_profile, header.frame_count, xmp=header.xmp)
    mode = "RGBA" if header.has_alpha else "RGB"
    return OpenedImage(WebPImageFile, file, mode, header.size, False, header.has_alpha, _read_orientation(header.exif))


def _open_bmp(data: bytes) -> OpenedImage:
    image = BmpImageFile(io.BytesIO(data))
    if any(tile.codec_name == "bmp_rle" for tile in image.tile):  # Pillow decodes it in Python: 7 MB would take seconds
        raise UnsupportedFormat(f"The BMP file is compressed (RLE). Save it without compression, or send {ALLOWED_OTHERS}.")
    across, down = image.info.get("dpi", (0, 0))
    return OpenedImage.of(image, SanitizedFile(data, density=(across, down) if across > 0 and down > 0 else None))


_OPENERS: dict[str, Callable[[bytes], OpenedImage]] = {
    "PNG": _open_png,
    "JPEG": _open_jpeg,
    "WebP": _open_webp,
    "BMP": _open_bmp,
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
