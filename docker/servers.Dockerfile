# PostgreSQL and Redis from Debian, in the place of the official images where no registry can be reached. One image for both, because
# docker-compose.servers.offline.yml starts each by its word (docker/servers.sh).
ARG DEBIAN_SUITE=trixie

FROM debian:${DEBIAN_SUITE}-slim
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql redis-server >/dev/null && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* && \
    mkdir -p /data && chown 65532:65532 /data && \
    rm -rf /var/lib/postgresql/* && mkdir -p /var/lib/postgresql/data /run/postgresql && chown postgres:postgres /var/lib/postgresql/data /run/postgresql && \
    ln -s /usr/lib/postgresql/*/bin /usr/lib/postgresql/bin
ENV PATH=/usr/lib/postgresql/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY docker/servers.sh /usr/local/bin/
ENTRYPOINT ["servers.sh"]
