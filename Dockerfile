# A small image of the registry that runs as nobody in particular.
#   docker build -t hythe .
#   docker run -p 5000:5000 -v hythe:/var/lib/hythe hythe
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY registry registry
COPY migrations migrations
RUN python3 -m venv /opt/hythe && /opt/hythe/bin/pip install --no-cache-dir -c constraints.txt .

FROM ${BASE}
COPY --from=build /opt/hythe /opt/hythe
RUN mkdir -p /var/lib/hythe/registry && chown -R 65532:65532 /var/lib/hythe
ENV PATH=/opt/hythe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HYTHE_SERVER_HOST=0.0.0.0 \
    HYTHE_STORAGE_DIRECTORY=/var/lib/hythe/registry
USER 65532:65532
VOLUME /var/lib/hythe
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/healthz', timeout=4)"]
ENTRYPOINT ["hythe"]
CMD ["serve"]
