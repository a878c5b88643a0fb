# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build --target api    -t scalewright-api .       REST, dashboard, migrations; no torch
#   docker build --target worker -t scalewright-worker .    trains and fits; no FastAPI
#
# The worker takes the CUDA build of torch, PyPI's default on Linux, and runs on the CPU where there
# is no GPU. For the CPU build, 5 GB smaller:
#   --build-arg TORCH_INDEX_URL=<the index that your platform's CPU wheels of torch come from>
#
# scripts/check_docker_targets.sh runs the install lines below in clean environments, without an
# engine, and starts what they install.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH="/opt/scalewright/bin:$PATH"

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/scalewright
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY fitting ./fitting
COPY app ./app
COPY workers ./workers
COPY migrations ./migrations

FROM build AS build-api
RUN pip install --constraint constraints.txt ".[api,parquet]"

FROM build AS build-worker
ARG TORCH_INDEX_URL=""
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX_URL" pip install --constraint constraints.txt ".[train,s3]"

# What both images share at run time: a user of their own, who owns the data folder.
FROM base AS run
RUN useradd --system --uid 10001 --home-dir /var/lib/scalewright --shell /usr/sbin/nologin scalewright \
    && install --directory --owner=10001 --group=0 --mode=0775 /var/lib/scalewright
ENV SCALEWRIGHT_DATA_DIR=/var/lib/scalewright \
    SCALEWRIGHT_LOG_FORMAT=json \
    HOME=/var/lib/scalewright
WORKDIR /var/lib/scalewright
VOLUME /var/lib/scalewright
USER 10001

FROM run AS worker
COPY --from=build-worker /opt/scalewright /opt/scalewright
ENV OMP_NUM_THREADS=1
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
    CMD ["scalewright", "db", "status"]
ENTRYPOINT ["python", "-m", "workers"]

FROM run AS api
COPY --from=build-api /opt/scalewright /opt/scalewright
# Reached from outside the container, so keys are asked for: set SCALEWRIGHT_ADMIN_KEY.
ENV SCALEWRIGHT_HOST=0.0.0.0 \
    SCALEWRIGHT_AUTH=keys
EXPOSE 8421
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8421/v1/health', timeout=4)"]
ENTRYPOINT ["scalewright"]
CMD ["serve"]
