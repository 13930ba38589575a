# The two images of M3: docker build --target operator . and docker build --target trainer .
#
# Both are the base image, a virtual environment /opt/m3 made from a hashed lock, and the project's own wheel as the last
# and smallest layer, so that a change of code rebuilds and transfers nothing else. What installs and builds stays in the
# first stages: no pip, no compiler and no build backend in the result.
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=/var/cache/pip
WORKDIR /src
COPY requirements/build.txt requirements/
# Two environments: /build has pip and the build backend, /opt/m3 is what the images get.
RUN --mount=type=cache,target=/var/cache/pip \
    python3 -m venv /build && python3 -m venv --without-pip /opt/m3 \
    && /build/bin/pip install --require-hashes --no-deps -r requirements/build.txt

FROM build AS operator-dependencies
COPY requirements/operator.txt requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    /build/bin/pip --python /opt/m3/bin/python install --require-hashes --no-deps --only-binary :all: -r requirements/operator.txt

FROM build AS trainer-dependencies
COPY requirements/trainer.txt requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    /build/bin/pip --python /opt/m3/bin/python install --require-hashes --no-deps --only-binary :all: -r requirements/trainer.txt

FROM build AS code
COPY . .
# --root: only our own files, at the paths that they have beside the dependencies.
RUN /build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /build/bin/pip --python /opt/m3/bin/python install --no-index --no-deps --root /code /wheel/*.whl

FROM ${PYTHON} AS runtime
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/share/python-wheels \
      /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/site-packages/setuptools* \
      /usr/local/lib/python3*/site-packages/wheel* \
    # A name for the number: Ray and MLflow ask who they are, and fail where nobody can say.
    && useradd --uid 1000 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin m3
# Bytecode is compiled at build, since the root is read-only in the cluster; only /tmp can be written to.
ENV PATH=/opt/m3/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 1000:1000
LABEL org.opencontainers.image.licenses=MIT

FROM runtime AS operator
LABEL org.opencontainers.image.title=m3-operator \
      org.opencontainers.image.description="Runs TrainingJobs as RayJobs on Kubernetes"
COPY --from=operator-dependencies /opt/m3 /opt/m3
COPY --from=code /code /
ENTRYPOINT ["python", "-m", "m3_operator"]

# Ray's head and workers, and the MLflow server: KubeRay and the chart bring the commands.
FROM runtime AS trainer
LABEL org.opencontainers.image.title=m3-trainer \
      org.opencontainers.image.description="Trains, tunes and serves tabular models; carries Ray and MLflow"
# LightGBM's wheel, unlike the others, brings no OpenMP runtime of its own.
USER 0:0
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
USER 1000:1000
COPY --from=trainer-dependencies /opt/m3 /opt/m3
COPY --from=code /code /
# Last: another commit of the same code makes no new layer. It becomes the lineage of every model.
ARG GIT_COMMIT=""
ENV M3_GIT_COMMIT=$GIT_COMMIT
LABEL org.opencontainers.image.revision=$GIT_COMMIT
CMD ["m3", "--help"]
