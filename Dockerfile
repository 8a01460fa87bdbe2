# The function in a container, for the CPU or for CUDA: docs/deploy.md says how it is built and run.
#
# BASE_IMAGE: any Debian or Ubuntu, with Python 3.11 or newer or without Python.
# EXTRAS: of pyproject.toml; `embedded,transformers` serves what our own decoder does not know.
# MODEL: baked in, ready to be mapped into memory; empty for an image whose model is mounted at /model.
# PACKAGES: of the distribution, installed as well; on CUDA `gcc libc6-dev`, with which Triton compiles what starts a kernel.
# Secret `pip`: a pip.conf for whoever has an index of their own, or wants torch from PyTorch's index for the CPU.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS python
# Images of Python leave out what its library compiles to. Without it each start would compile again, and in vain where
# the file system is read-only.
# No versions of Debian's packages: what the distribution has mended since is wanted.
# hadolint ignore=DL3008
RUN set -eu; \
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then \
        apt-get update -qq; \
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ca-certificates python3 python3-venv; \
        rm -rf /var/lib/apt/lists/*; \
    fi; \
    python3 -m compileall -q -x 'lib2to3/tests|/test/|site-packages' "$(python3 -c 'import os; print(os.path.dirname(os.__file__))')"; \
    useradd --system --uid 10001 --home-dir /var/lib/pilotlight --create-home --shell /usr/sbin/nologin pilotlight

FROM python AS build
# hadolint ignore=DL3008
RUN set -eu; \
    apt-get update -qq; \
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends gcc libc6-dev; \
    rm -rf /var/lib/apt/lists/*; \
    python3 -m venv /build/pip; \
    python3 -m venv --without-pip /opt/pilotlight
WORKDIR /build/source
COPY constraints.txt pyproject.toml infra/image/requirements.py ./
ARG EXTRAS=embedded
# What the function depends on is most of the image, and changes seldom: a layer of its own. What torch is tested with,
# and what extensions of it are compiled with, would be a tenth of it.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf set -eu; \
    python3 requirements.py --base --extra "${EXTRAS}" > /build/serve.txt; \
    python3 requirements.py --extra prepare > /build/prepare.txt; \
    pip() { /build/pip/bin/python -m pip "$@"; }; \
    pip --python /opt/pilotlight/bin/python install --quiet --no-cache-dir --constraint constraints.txt -r /build/serve.txt; \
    pip install --quiet --no-cache-dir --constraint constraints.txt --target /build/prepare -r /build/prepare.txt pip; \
    torch="$(/opt/pilotlight/bin/python -c 'import site; print(site.getsitepackages()[0])')/torch"; \
    rm -r "${torch:?}/test" "${torch:?}/include"; \
    find "${torch:?}/bin" -type f ! -name torch_shm_manager -delete
COPY LICENSE README.md ./
COPY bench bench
COPY handler handler
RUN --mount=type=secret,id=pip,target=/etc/pip.conf set -eu; \
    /build/pip/bin/python -m pip install --quiet --no-cache-dir --no-deps --target /build/function .; \
    rm -r /build/function/bin; \
    echo /opt/function > "$(/opt/pilotlight/bin/python -c 'import site; print(site.getsitepackages()[0])')/function.pth"; \
    printf '#!/bin/sh\nexec /opt/pilotlight/bin/python -P -m handler "$@"\n' > /opt/pilotlight/bin/pilotlight; \
    chmod +x /opt/pilotlight/bin/pilotlight
# `prepare` needs packages that serving does not, and they stay behind.
ARG MODEL=smollm2-135m
RUN --mount=type=secret,id=pip,target=/etc/pip.conf set -eu; \
    mkdir /build/model; \
    if [ -n "${MODEL}" ]; then \
        export PYTHONPATH=/build/function:/build/prepare PILOTLIGHT_HOME=/build/home; \
        pilotlight() { /opt/pilotlight/bin/python -P -m handler "$@"; }; \
        pilotlight prepare "${MODEL}" --json > /build/prepared.json; \
        cp -r "$(python3 -c 'import json; print(json.load(open("/build/prepared.json"))["directory"])')/." /build/model; \
    fi

FROM python
ARG PACKAGES=
# hadolint ignore=DL3008,SC2086
RUN if [ -n "${PACKAGES}" ]; then \
        set -eu; \
        apt-get update -qq; \
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ${PACKAGES}; \
        rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /opt/pilotlight /opt/pilotlight
COPY --from=build /build/model /model
COPY --from=build /build/function /opt/function
ARG IMAGE=pilotlight
# The two of NVIDIA tell its container runtime that the driver is wanted; nobody else reads them.
ENV PATH=/opt/pilotlight/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOST=0.0.0.0 \
    PORT=8000 \
    MODEL_NAME=/model \
    PILOTLIGHT_HOME=/var/lib/pilotlight \
    IMAGE=${IMAGE}
USER 10001
WORKDIR /var/lib/pilotlight
VOLUME /var/lib/pilotlight
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: what boots is not to be killed.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-P", "-m", "handler.healthcheck"]
ENTRYPOINT ["pilotlight"]
CMD ["serve"]
