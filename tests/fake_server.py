"""The service with a network that repeats pixels: `python -m tests.fake_server`, with the settings of `app.py`.

For tests of what surrounds the network: it needs neither torch nor weights, and a fifth of the time to start.
"""

from __future__ import annotations

import sys
from functools import partial

import app
from tests.helpers import fake_models

if __name__ == "__main__":
    app.create_app = partial(app.create_app, load=lambda _: fake_models())
    sys.exit(app.main())
