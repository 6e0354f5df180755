"""`python app.py` on one node of several that are on one machine, which Ray could not tell apart."""

import sys

import app
from tests.scale.ray_cluster import GATEWAY
from workers.ray_client import join_cluster

if __name__ == "__main__":
    join_cluster(_node_ip_address=GATEWAY)
    sys.exit(app.main())
