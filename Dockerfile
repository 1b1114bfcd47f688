# stream-monitor: two stages, so that compilers and pip's cache stay out of the image.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
# The dependencies are a layer of their own: a change of our code does not fetch them again.
RUN mkdir stream_monitor && touch stream_monitor/__init__.py && pip install -c constraints.txt .
COPY stream_monitor stream_monitor
RUN pip install --no-deps --force-reinstall .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home monitor
COPY --from=build /opt/venv /opt/venv
COPY config/compose.yaml config/monitor.yaml config/minimal.yaml /etc/stream-monitor/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/stream-monitor \
    STREAM_MONITOR_WORKER__HEARTBEAT_FILE=/tmp/stream-monitor.heartbeat \
    STREAM_MONITOR_HTTP__PORT=9464
EXPOSE 9464
RUN install -d -o monitor /var/cache/stream-monitor
USER 10001
WORKDIR /home/monitor
# Compiles the detectors' kernels once, here, instead of at every start; and proves that the image finds drift.
RUN stream-monitor demo --rate 1000000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["stream-monitor", "health"]
ENTRYPOINT ["stream-monitor"]
CMD ["run"]
