"""Who may come in, and what browsers are told: API keys, other origins (CORS), and headers for security.

It knows header names and values, and no web framework.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pybase64

from core.config import ConfigError, Settings
from utility import read_regular

FREE_PATHS = ("/health", "/livez")  # load balancers and supervisors have no key
MAX_KEYS_BYTES = 256 * 1024  # of API_KEY_FILE, which is read on the event loop, and whose keys are all compared
CHALLENGE = 'Basic realm="upscale", charset="UTF-8"'  # a browser asks for name and password; the key is the password

# What a browser may do with a response: show the page with its own files, and the pictures that it makes.
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}

# What a page of another origin may send and see, where CORS_ORIGINS lets it do anything.
_CORS_REQUEST = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-None-Match, Last-Event-ID, Prefer, X-API-Key, "
    "X-Request-ID, X-Request-Timeout",
    "Access-Control-Max-Age": "3600",
}
_EXPOSED = ("Content-Disposition", "ETag", "Location", "Preference-Applied", "Retry-After", "X-Process-Time", "X-Request-ID")


class Access:
    """The rules of one service.

    Raises:
        ConfigError: API_KEY or its file holds no key, or an entry of CORS_ORIGINS is not an origin.
    """

    def __init__(self, settings: Settings, result_headers: Iterable[str] = ()) -> None:
        """`result_headers` are those of a result that other origins may see too."""
        self._settings = settings
        self._key_hashes = [_hash(key) for key in _read_keys(settings)]
        self._origins = _read_origins(settings.cors_origins)
        self._exposed = ", ".join([*_EXPOSED, *result_headers])

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the port is served."""
        return not self._key_hashes

    def read_keys_again(self) -> int:
        """Take the keys that are in API_KEY_FILE now, in place of those that were, and return how many; 0 where none is set.

        Raises:
            ConfigError: the file holds no keys; those that were stay.
        """
        keys = _read_keys(self._settings) if self._settings.api_key_file else []
        if keys:
            self._key_hashes = [_hash(key) for key in keys]
        return len(keys)

    def admits(self, path: str, presented: Iterable[str]) -> bool:
        """Whether one of these keys opens this path. It takes the same time whichever key it is, and whether it is one."""
        if self.is_open or path in FREE_PATHS:
            return True
        hashes = [_hash(key) for key in presented]
        return any([hmac.compare_digest(given, known) for given in hashes for known in self._key_hashes])  # noqa: C419 - all

    def cors_headers(self, origin: str | None, *, preflight: bool) -> dict[str, str]:
        """What a browser is told of pages of other origins. Empty where they are not allowed anything."""
        if not self._origins:
            return {}
        if "*" in self._origins:
            allowed = {"Access-Control-Allow-Origin": "*"}
        elif origin in self._origins:
            allowed = {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}
        else:
            return {"Vary": "Origin"}
        rest = _CORS_REQUEST if preflight else {"Access-Control-Expose-Headers": self._exposed}
        return {**allowed, **rest, "Vary": "Origin"}

    def admits_form(self, origin: str | None, host: str, fetch_site: str | None) -> bool:
        """Whether a page of this origin may send a form: any page can, without that browsers ask here first (CORS preflight).

        It would start work with the key that its reader's browser knows, or in its reader's network.
        """
        if origin is None or origin in self._origins or "*" in self._origins:
            return True
        return fetch_site == "same-origin" or origin.partition("://")[2] == host


def presented_keys(authorization: str, api_key: str) -> list[str]:
    """What may be a key in the headers of that name; neither is an error, whatever a client sends in it."""
    scheme, _, credentials = authorization.partition(" ")
    keys = [api_key]
    if scheme.lower() == "bearer":
        keys.append(credentials.strip())
    elif scheme.lower() == "basic":
        with contextlib.suppress(ValueError):  # it is no base64
            _, _, password = pybase64.b64decode(credentials.strip(), validate=True).partition(b":")
            keys.append(password.decode("latin-1"))
    return [key for key in keys if key]


def security_headers() -> dict[str, str]:
    """What browsers are told to refuse."""
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
        "Cross-Origin-Resource-Policy": "same-origin",  # pages of CORS_ORIGINS ask with CORS, to which this does not apply
        "Referrer-Policy": "no-referrer",  # the name of a result is what protects it
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    }


def _hash(key: str) -> bytes:
    """Of one length for all keys, since comparing in constant time tells lengths apart."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _read_keys(settings: Settings) -> list[str]:
    keys = _checked("API_KEY", settings.api_key.split(",")) if settings.api_key else []
    if settings.api_key_file:
        try:
            # By its real path: a mounted secret is a link.
            data = read_regular(Path(os.path.realpath(settings.api_key_file)), MAX_KEYS_BYTES)
            lines = data.decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise ConfigError(f"API_KEY_FILE {settings.api_key_file!r} cannot be read: {reason}") from exc
        keys += _checked(f"API_KEY_FILE {settings.api_key_file!r}", lines)
    return keys


def _checked(source: str, texts: Iterable[str]) -> list[str]:
    """The keys among these texts; no message quotes one."""
    keys = [key for text in texts if (key := text.strip())]
    if not keys:
        raise ConfigError(f"{source} must hold at least one key, and holds none")
    if not all(_KEY.fullmatch(key) for key in keys):
        raise ConfigError(f"{source} must hold keys of printable ASCII characters without spaces and commas")
    return keys


_KEY = re.compile(r"[!-+\--~]+")


def _read_origins(text: str) -> frozenset[str]:
    origins = frozenset(origin for part in text.split(",") if (origin := part.strip()))
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"CORS_ORIGINS must be * or origins as browsers send them (https://example.com), with commas, not {origin!r}"
            )
    return origins


_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:-]+", re.ASCII)
