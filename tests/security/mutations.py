"""Mutants of small real files and of requests: each is a function of its seed, so that a failure can be had again."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from PIL import Image, ImageCms

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
}


def corpus(picture: Image.Image) -> list[bytes]:
    """An RGB picture as a file of every format and mode that the service reads, plain and with all that can surround it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    surroundings: dict[str, Any] = {"icc_profile": SRGB, "exif": exif, "progressive": True, "lossless": True}
    transparent = picture.copy()
    transparent.putalpha(picture.convert("L"))
    return [
        saved(
            (transparent if mode in ("LA", "RGBA") else picture).convert("L" if mode == "I;16" else mode).convert(mode), name
        )
        for name, modes in MODES.items()
        for mode in modes
    ] + [saved(picture, name, **surroundings) for name in MODES]


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """An image file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def mutated_file(data: bytes, rng: random.Random) -> bytes:
    """The file with some bytes changed, inserted or left out, most often where a decoder decides what to believe."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(result), rng.choice([40, 200, 10**9])) or 1)
        match rng.randrange(4):
            case 0:
                result[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                result[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", rng.randbytes(4)])
            case 2:
                result[at:at] = rng.randbytes(rng.randint(1, 20))
            case 3:
                del result[at : at + rng.choice([1, 4, 50])]
    if rng.random() < 0.1:
        del result[rng.randrange(len(result) or 1) :]
    return with_right_checksums(bytes(result)) if rng.random() < 0.8 else bytes(result)


def with_right_checksums(data: bytes) -> bytes:
    """Of a mutated PNG, so that it is not the checksum alone that stops it."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    result, position = bytearray(data), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            break
        result[end : end + 4] = struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(result)


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PRI", "get", "P\xd6ST", ""]
TARGETS = [
    *("/", "*", "//", "/upscale", "/upscale/", "/upscale?", "/plan", "/health", "/metrics", "/openapi.json", "/docs"),
    *("/jobs/abcdefgh", "/jobs/abcdefgh/events", "/jobs/abcdefgh/cancel", "/jobs/\x00", "/jobs/" + "a" * 5000),
    *("/files/", "/files/..", "/files/%2e%2e%2fapp.py", "/files/%00.png", "/files/" + "0" * 32 + ".jpg", "/web/..%2fapp.py"),
    *(
        "/upscale?quality=1&quality=2",
        "/upscale?target_resolution=%ff",
        "/upscale?" + "a=b&" * 3000,
        "/%",
        "/\xe4",
        "http://[",
    ),
]
HEADERS = [
    *(
        "Content-Length: 0",
        "Content-Length: 7",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999",
        "Content-Length: 1e3",
    ),
    *(
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Content-Encoding: gzip",
    ),
    *(
        "Content-Type: image/png",
        "Content-Type: image/*",
        "Content-Type: text/plain",
        "Content-Type: application/json; charset=utf-7",
    ),
    *(
        "Content-Type: multipart/form-data",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: \xff",
        "Content-Type:",
    ),
    *("Accept: image/png", "Accept: */*;q=0", "Accept: q=nan", "Accept: image/webp;q=1e400", "Accept-Encoding: gzip"),
    *(
        "Expect: 100-continue",
        "Expect: 200-ok",
        "Range: bytes=0-",
        "Range: bytes=9-1,x",
        "If-None-Match: *",
        'If-None-Match: W/"',
    ),
    *("Connection: keep-alive", "Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAAA", "Upgrade: websocket"),
    *(
        "X-Request-Timeout: 0",
        "X-Request-Timeout: -1",
        "X-Request-Timeout: nan",
        "X-Request-Timeout: 1e400",
        "X-Request-Timeout: x",
    ),
    *("X-Request-ID: \xe4", "X-Request-ID: " + "a" * 200, "X-Request-ID: {}", "Prefer: respond-async", "Prefer: wait=x, ;"),
    *(
        "Authorization: Bearer",
        "Authorization: Basic !",
        "X-API-Key: \x00",
        "Origin: null",
        "Cookie: " + "a=b;" * 500,
        "Host:",
    ),
    *("Host: a..b", "A: " + "a" * 20_000, ": x", "no colon", " folded", "X\x00: y", "Host: [::1"),
]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        10**30,
        "",
        "8K",
        "\ud800",
        "\x00",
        [],
        {},
        [[]],
        {"a": 1},
        "x" * 300,
        "data:image/png;base64,",
    ),
    *(
        "2k",
        "4k",
        "png",
        "webp",
        "jpeg",
        "exact",
        "passes",
        "photo",
        "anime",
        "photo_fast",
        "anime_fast",
        1,
        100,
        0.5,
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
    ),
]
FIELDS = [
    "target_resolution",
    "enhance_faces",
    "output_format",
    "quality",
    "fit",
    "model",
    "face_strength",
    "webhook",
    "\u0000",
    "",
]
FRAMES = ("plain", "plain", "plain", "chunked", "cut", "twice", "noise")


def mutated_request(fields: dict[str, Any], raw: bytes, rng: random.Random) -> bytes:
    """The bytes of one request, or of what was one: of `fields` as JSON, or of `raw`, an image file, with a query."""
    if rng.random() < 0.7:
        target, kind, body = "/upscale", "application/json", _mutated_json(fields, rng)
    else:
        query = "&".join(f"{rng.choice(FIELDS)}={rng.choice(VALUES)}" for _ in range(rng.randrange(4)))
        target, kind, body = f"/upscale?{query}".replace(" ", "+"), "image/png", mutated_file(raw, rng)
    method = rng.choice(METHODS) if rng.random() < 0.15 else "POST"
    target = rng.choice(TARGETS) if rng.random() < 0.25 else target
    headers = ["Host: test", f"Content-Type: {kind}", "X-Request-Timeout: 3"]
    headers += _some(HEADERS, rng) if rng.random() < 0.5 else []
    frame = rng.choice(FRAMES)
    if frame == "chunked":
        headers.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in _cut(body, rng)) + b"0\r\n\r\n"
    elif rng.random() < 0.95:
        headers.append(f"Content-Length: {len(body)}")
    rng.shuffle(headers)
    head = "\r\n".join(
        [f"{method} {target} HTTP/{rng.choice(['1.1', '1.1', '1.1', '1.0', '2.0', '0.9', 'x'])}", *headers, "", ""]
    )
    request = head.encode("latin-1", "replace") + body
    if frame == "cut":
        return request[: rng.randrange(len(request))]
    return request * 2 if frame == "twice" else mutated_file(request, rng) if frame == "noise" else request


def _mutated_json(fields: dict[str, Any], rng: random.Random) -> bytes:
    mutant = dict(fields)
    for _ in range(rng.randrange(3)):
        name = rng.choice([*FIELDS, *fields])
        if name in mutant and rng.random() < 0.3:
            del mutant[name]
        else:
            mutant[name] = rng.choice(VALUES)
    text = json.dumps(mutant).encode()
    return rng.choice(
        [text, text, text, text, mutated_file(text, rng), b"", b"[" * 1000, b"\xff\xfe" + text, text[:-1] + b',"a":NaN}']
    )


def _some(choices: Sequence[str], rng: random.Random) -> list[str]:
    return [rng.choice(choices) for _ in range(rng.randint(1, 3))]


def _cut(body: bytes, rng: random.Random) -> list[bytes]:
    marks = sorted({0, len(body), *(rng.randrange(len(body) + 1) for _ in range(3))})
    return [body[start:end] for start, end in pairwise(marks)]
