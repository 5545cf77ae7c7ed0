# What answers behind the cores of the stack. The context holds one file, the binary `backend` of docker/backend.rs.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
COPY backend /usr/local/bin/
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=2s --timeout=5s --retries=3 CMD ["backend", "--check"]
ENTRYPOINT ["backend"]
CMD ["backend"]
