# The GPU worker. The build compiles its kernels for the architectures named, or for all. It needs no GPU.
#
#   docker build --file docker/worker.Dockerfile --build-arg "TORCH_CUDA_ARCH_LIST=8.6;9.0" --tag localhost/dain-worker .

# The CUDA version is that of PyTorch. PyTorch brings CUDA's libraries, so the smallest runtime is enough.
ARG CUDA_BUILD_IMAGE=docker.io/nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG CUDA_IMAGE=docker.io/nvidia/cuda:13.0.2-base-ubuntu24.04

# -- a virtual environment with locked wheels, the kernels and the project -------------

FROM ${CUDA_BUILD_IMAGE} AS build
# No version is pinned, because a distribution keeps no older versions.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/dain/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all:
WORKDIR /src
COPY docker/requirements-build.txt docker/requirements-worker.txt docker/
RUN python3 -m venv /opt/dain \
 && pip install --require-hashes --target /opt/build --requirement docker/requirements-build.txt \
 && pip install --require-hashes --requirement docker/requirements-worker.txt
ARG TORCH_CUDA_ARCH_LIST=
COPY cuda_ext cuda_ext
RUN python -m cuda_ext.build
COPY . .
RUN PYTHONPATH=/opt/build DAIN_BUILD_CUDA=0 pip install --no-build-isolation --no-deps . \
 && cp cuda_ext/_C.so /opt/dain/lib/python3.*/site-packages/cuda_ext/ \
 && sh docker/trim_torch.sh \
 && pip uninstall --yes pip

# -- the image --------------------------------------------------------------------------------------

FROM ${CUDA_IMAGE} AS worker
LABEL org.opencontainers.image.title="DAIN worker, CUDA" \
      org.opencontainers.image.description="Worker of the DAIN video frame interpolation service, for NVIDIA GPUs" \
      org.opencontainers.image.vendor="The DAIN service team" \
      org.opencontainers.image.licenses="MIT"
# No version is pinned, because a distribution keeps no older versions.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 dain \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin dain \
 && install --directory --owner dain --group dain --mode 0700 \
      /var/lib/dain /var/lib/dain/store /var/lib/dain/cache /run/dain /run/dain/gpus
COPY --from=build /opt/dain /opt/dain
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/entrypoint
COPY docker/healthy.py docker/one_gpu.py /opt/dain/
# Without PASSIVE the network's threads spin while they wait, and take the cores from the codecs.
ENV PATH=/opt/dain/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=PASSIVE \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    DAIN_STATE_DIR=/var/lib/dain \
    DAIN_DEVICE=cuda
WORKDIR /var/lib/dain
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=15s --start-period=300s \
  CMD ["entrypoint", "python", "/opt/dain/healthy.py"]
ENTRYPOINT ["entrypoint"]
CMD ["python", "/opt/dain/one_gpu.py", "python", "-m", "worker.main"]
ARG VERSION=latest
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"
