"""`python -m workers.ray_worker`, of workers that only sleep: `python -m tests.scale.ray_sleepers --max 2 --cpus 1`."""

import sys

from tests.scale.sleeping_server import load
from workers.ray_worker import main

if __name__ == "__main__":
    sys.exit(main(load))
