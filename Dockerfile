# docker build -t upscale .          docs/docker.md has the other commands
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS packages
# OpenCV's system libraries, until slim.sh replaces it. Debian drops the versions that an update replaces: no pin would last.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
ENV VENV=/opt/venv \
    PIP_NO_CACHE_DIR=1 \
    UV_NO_CACHE=1 \
    UV_COMPILE_BYTECODE=1
# EXTRA=ray: the packages of a worker or gateway of Ray, too
ARG EXTRA=
COPY pyproject.toml uv.lock /build/
COPY scripts/setup.sh scripts/check.py scripts/slim.sh /build/scripts/
COPY scripts/setup_hook /build/scripts/setup_hook
# A company's index and certificates: docker build --secret id=pip.conf,src=$HOME/.config/pip/pip.conf
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    /build/scripts/setup.sh ${EXTRA:+--$EXTRA} && /build/scripts/slim.sh


# The engine for CPUs: two libraries for x86-64, elsewhere none.
FROM ${BASE_IMAGE} AS engine
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY scripts/build_engine.sh scripts/
COPY models/engines models/engines
RUN mkdir models/engines/lib && scripts/build_engine.sh && test ! -e models/engines/lib/.failed


FROM ${BASE_IMAGE}
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    WEIGHTS_DIR=/data/weights \
    OUTPUT_DIR=/data/outputs \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A line of its own in /etc/passwd, since not every slim base has useradd.
RUN echo "upscale:x:10001:10001::/tmp:/usr/sbin/nologin" >> /etc/passwd \
    && install --directory --owner=10001 --group=10001 /data/weights /data/outputs
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY . .
COPY --from=engine /build/models/engines/lib models/engines/lib
USER 10001:10001
# Here the base has to have every library.
RUN python -m scripts.check

# BAKE_WEIGHTS=1 puts the weights into the image; else the first start fetches them into the volume.
ARG BAKE_WEIGHTS=0
ARG WEIGHTS_MIRROR=
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf,mode=0444 \
    if [ "$BAKE_WEIGHTS" = 1 ]; then python -m weights.fetch; fi

EXPOSE 10005
STOPSIGNAL SIGTERM
# The start period is for the first start's download.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 CMD ["python", "-m", "scripts.health"]

# The kernel drops a signal for which process 1 has no handler yet, but keeps a blocked one until Python takes it.
CMD ["env", "--block-signal=TERM,INT,HUP", "python", "-m", "weights.fetch", "python", "app.py"]
