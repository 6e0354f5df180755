"""The image's health check: `python -m scripts.health` asks /health where the settings have the service listen."""

import sys
from http.client import HTTPConnection, HTTPException  # which asks no proxy
from urllib.parse import urlsplit

from core.config import Settings

ANSWER_SECONDS = 4


def main() -> int:
    """The exit status: 0 if the answer is 200."""
    url = urlsplit(Settings.from_env().local_url)
    try:
        connection = HTTPConnection(url.netloc, timeout=ANSWER_SECONDS)
        connection.request("GET", "/health")
        status = str(connection.getresponse().status)
    except (OSError, HTTPException) as exc:
        status = str(exc)
    sys.stdout.write(f"{url.geturl()}health: {status}\n")
    return int(status != "200")


if __name__ == "__main__":
    sys.exit(main())
