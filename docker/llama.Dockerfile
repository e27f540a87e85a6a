# llama.cpp's server from Debian, with the project's own small model: an engine for tests and for trying things without a download.
ARG LLAMA_SUITE=forky

FROM debian:${LLAMA_SUITE}-slim AS model
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-minimal >/dev/null
COPY tools /tools
RUN python3 /tools/make-model -o /model.gguf

FROM debian:${LLAMA_SUITE}-slim
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends llama.cpp-tools >/dev/null && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=model /model.gguf /models/corral-tiny.gguf
USER 65532:65532
EXPOSE 8080
CMD ["llama-server", "--model", "/models/corral-tiny.gguf", "--alias", "corral-tiny", "--host", "0.0.0.0", "--port", "8080", "--jinja", "--metrics", "--slots", "--parallel", "4", "--ctx-size", "16384", "--cache-ram", "64"]
