# A control plane. The context holds one file, the binary `tidegate` (cargo build --release, stripped).
ARG BASE=debian:bookworm-slim
FROM ${BASE}
COPY tidegate /usr/local/bin/
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/tidegate
USER 10001:10001
ENV TIDEGATE_DATA_DIR=/var/lib/tidegate TIDEGATE_LOG_FORMAT=json
VOLUME /var/lib/tidegate
EXPOSE 18000 18001
HEALTHCHECK --interval=2s --timeout=5s --retries=3 CMD ["tidegate", "ready"]
ENTRYPOINT ["tidegate"]
CMD ["serve"]
