# One member of etcd. The context holds `etcd` and `etcdctl`, those of Debian.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
COPY etcd etcdctl /usr/local/bin/
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/etcd
USER 10001:10001
ENV ETCDCTL_API=3 ETCD_DATA_DIR=/var/lib/etcd
VOLUME /var/lib/etcd
EXPOSE 2379
# Which certificates it takes, the environment says (ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY).
HEALTHCHECK --interval=2s --timeout=5s --retries=3 CMD ["etcdctl", "endpoint", "health"]
ENTRYPOINT ["etcd"]
