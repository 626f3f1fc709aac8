# Two stages: the first builds a virtual environment from the lock file, the second carries nothing but it.
FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements.lock ./
RUN python3 -m venv /opt/trivet \
    && /opt/trivet/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock \
    && /opt/trivet/bin/pip install --no-cache-dir --disable-pip-version-check 'setuptools>=68' wheel
COPY pyproject.toml README.md ./
COPY src ./src
RUN /opt/trivet/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && /opt/trivet/bin/pip uninstall -y setuptools wheel

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 971 trivet \
    && useradd --system --uid 971 --gid trivet --home-dir /var/lib/trivet --shell /usr/sbin/nologin trivet \
    && install -d -o trivet -g trivet -m 0700 /var/lib/trivet
COPY --from=build /opt/trivet /opt/trivet
ENV PATH=/opt/trivet/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    TRIVET__NODE__DATA_DIR=/var/lib/trivet \
    TRIVET__API__LISTEN=127.0.0.1:7480
LABEL org.opencontainers.image.title="Trivet" \
      org.opencontainers.image.description="A durable, leased work queue that three or five plain machines run together" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 971:971
VOLUME /var/lib/trivet
EXPOSE 7480 7481
# The node transfers its leadership and finishes what it began before it exits (api.drain_ms).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s --retries=3 CMD ["trivet", "health"]
ENTRYPOINT ["trivet"]
CMD ["serve"]
