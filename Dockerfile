# Corral in a container: every service, or one.
#
#   docker build -t corral .                               all programs in one image
#   docker build -t corral-gateway --build-arg PROGRAMS=gateway .
#
# The image runs as user 65532, writes nothing outside /var/lib/corral, and needs no shell: health checks are
# 'PROGRAM --probe=readyz', a preStop hook is 'PROGRAM --wait=10s'. docs/ops/containers.md has the rest.
ARG DEBIAN_SUITE=trixie

FROM debian:${DEBIAN_SUITE}-slim AS build
ARG PROGRAMS=all
WORKDIR /src
# the packages first: they change less often than the code
COPY scripts/setup scripts/lib.sh scripts/
RUN scripts/setup build
COPY . .
# as for production: built, tried, and built again with what the trial showed
RUN scripts/build-release --dir /build $([ "$PROGRAMS" = all ] || echo "$PROGRAMS") && \
    mkdir -p /out && cp /build/bin/* /out/ && \
    strip /out/* && mkdir -p /state && \
    ldd /out/* | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p' | xargs -n1 realpath | sort -u | xargs dpkg-query -S 2>/dev/null | cut -d: -f1 | sort -u >/packages

FROM debian:${DEBIAN_SUITE}-slim
ARG DEBIAN_SUITE
LABEL org.opencontainers.image.title="corral" \
      org.opencontainers.image.description="One door to the models a team runs itself" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="debian:${DEBIAN_SUITE}-slim"
# the libraries that the programs were linked with, by the names of this suite
COPY --from=build /packages /tmp/packages
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -qq --no-install-recommends ca-certificates tzdata </tmp/packages && \
    rm -rf /tmp/packages /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt
COPY --from=build /out/ /usr/local/bin/
COPY --from=build --chown=65532:65532 /state /var/lib/corral
ENV CORRAL_STATE_DIR=/var/lib/corral CORRAL_LOG_FORMAT=json
VOLUME /var/lib/corral
USER 65532:65532
EXPOSE 8100
STOPSIGNAL SIGTERM
CMD ["corral", "serve"]
