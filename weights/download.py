"""One URL into one file, over a network that may fail in every way.

It knows HTTP and nothing of weights, hashes or the manifest. What httpx raises is translated here, once, into
`SourceError`, whose message is one line for the operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import httpx


class SourceError(Exception):
    """This source cannot give the file."""


class _Interrupted(Exception):
    """The transfer broke off; what has arrived is good, and the rest can be asked for."""


@dataclass(frozen=True)
class Patience:
    """How long a server may take before it is given up."""

    connect_seconds: float = 5.0
    silence_seconds: float = 10.0
    """Without a single byte."""
    bytes_per_second: float = 10 * 1024
    """On average, once `silence_seconds` have passed; a trickle would otherwise hold up the whole run."""
    tries: int = 5
    """For one URL, as long as each of them brings more of the file."""


@dataclass
class Downloader:
    """Use it as a context manager. It remembers which hosts did not answer."""

    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        timeout = httpx.Timeout(self.patience.silence_seconds, connect=self.patience.connect_seconds)
        # identity: the bytes that a Range counts are then the bytes of the file
        self._client = httpx.Client(timeout=timeout, follow_redirects=True, headers={"Accept-Encoding": "identity"})
        self._silent_hosts: set[str] = set()

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def has_given_up(self, url: str) -> bool:
        """Whether the host of this URL did not answer before; asking again would only cost the same wait."""
        return _host(url) in self._silent_hosts

    def download(self, url: str, path: Path, *, say: Callable[[str], None], progress: Callable[[int], None]) -> None:
        """Fill `path` from `url`; where the transfer breaks off, ask for the rest.

        `progress` is told the size of the file after each piece, `say` each interruption.

        Raises:
            SourceError: the file cannot be had from there.
        """
        with path.open("wb") as output:
            for _ in range(self.patience.tries):
                had_bytes = output.tell()
                try:
                    return self._receive(url, output, progress)
                except _Interrupted as exc:
                    reason = str(exc)
                if output.tell() <= had_bytes:
                    break
                say(f"the transfer {reason} after {output.tell():,} bytes; asking for the rest")
        raise SourceError(f"the transfer {reason}, and the rest did not come")

    def _receive(self, url: str, output: BinaryIO, progress: Callable[[int], None]) -> None:
        offset = output.tell()
        with self._response(url, offset) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                return  # there is no rest: the transfer broke off behind the last byte
            if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise SourceError(f"answered {response.status_code} {response.reason_phrase}".rstrip())
            if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                output.seek(0)  # the server does not know ranges: all of it comes again
                output.truncate()
            for chunk in self._chunks(response):
                output.write(chunk)
                progress(output.tell())

    @contextmanager
    def _response(self, url: str, offset: int) -> Iterator[httpx.Response]:
        response = self._ask(url, {"Range": f"bytes={offset}-"} if offset else {})
        try:
            yield response
        finally:
            response.close()

    def _ask(self, url: str, headers: dict[str, str]) -> httpx.Response:
        """The response, of which only the head has been read."""
        try:
            return self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
        except (httpx.ConnectError, httpx.TimeoutException, httpx.ProxyError) as exc:
            self._silent_hosts.add(_host(url))
            raise SourceError(f"{_host(url)} does not answer ({exc}); it is not asked again") from exc
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise SourceError("this is not a http:// or https:// address") from exc
        except httpx.HTTPError as exc:
            raise _Interrupted(f"broke off ({exc})") from exc

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        started, received = time.monotonic(), 0
        try:
            for chunk in response.iter_bytes():
                yield chunk
                received += len(chunk)
                seconds = time.monotonic() - started
                if received < (seconds - self.patience.silence_seconds) * self.patience.bytes_per_second:
                    raise SourceError(f"too slow: only {received:,} bytes in {seconds:.0f} s")
        except httpx.TimeoutException as exc:
            raise _Interrupted(f"stalled for {self.patience.silence_seconds:g} s") from exc
        except httpx.HTTPError as exc:
            raise _Interrupted("broke off") from exc


def _host(url: str) -> str:
    try:
        return httpx.URL(url).netloc.decode()
    except httpx.InvalidURL:
        return url
