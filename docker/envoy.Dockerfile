# An Envoy of an edge or core site. The context holds one file, the stock binary `envoy`. At /etc/envoy is mounted what
# the site is: its certificates, `identity/`, and the bootstrap `envoy.yaml` of `tidegate proxy bootstrap`.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
COPY envoy /usr/local/bin/
USER 10001:10001
WORKDIR /etc/envoy
# There is no curl in here, and bash speaks enough HTTP.
HEALTHCHECK --interval=2s --timeout=5s --retries=3 CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9901 && printf 'GET /ready HTTP/1.1\\r\\nhost: admin\\r\\nconnection: close\\r\\n\\r\\n' >&3 && grep -q ^LIVE <&3"]
ENTRYPOINT ["envoy", "-c", "envoy.yaml", "--disable-hot-restart"]
# As in the bootstrap's --drain-time.
CMD ["--drain-time-s", "600"]
