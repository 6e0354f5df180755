#!/bin/sh
# Takes out of the image's environment what the service opens on no CPU and on no card. Only the Dockerfile calls it, after
# setup.sh. torch links NCCL, cuSPARSELt, cuFFT, cuRAND, CUPTI and NVSHMEM's host library: they stay, and so does all of cuDNN.
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}

# OpenCV without its windows, which needs no library of the system. Elsewhere `opencv-python` stays, since pip would install it
# beside the other, for basicsr. The compiler behind torch.compile, which nothing here calls: our kernels are NVRTC's work.
"$VENV/bin/python" -m pip uninstall --yes --quiet opencv-python triton
scripts/setup.sh --image
"$VENV/bin/python" -m pip uninstall --yes --quiet uv

cd "$VENV"/lib/python3.*/site-packages
rm -rf torch/include torch/bin/protoc*             # for those who compile against torch
rm -f nvidia/*/lib/libcusolverMg.so.*              # linear algebra on several cards; torch does not link it
rm -f nvidia/*/lib/libnvrtc*.alt.so.*              # a second NVRTC, for whoever asks for it by this name
rm -f nvidia/*/lib/libnvperf_*.so                  # a profiler's counters
rm -f nvidia/nvshmem/lib/libnvshmem_device.bc      # for those who compile kernels with NVSHMEM in them
find . -name '*.a' -delete                         # for those who link statically
find . -type d -name tests -prune -exec rm -rf {} +
