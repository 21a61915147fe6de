# syntax=docker/dockerfile:1
# Decant for NVIDIA GPUs (sm_80, sm_90; others by PTX), in vLLM's own image. For CPUs: deploy/Dockerfile.cpu.
#   docker build -t decant:0.1.0-cuda .
#   docker run --gpus all --ipc=host -p 8000:8000 -v ./keys:/run/secrets/decant-keys:ro \
#     -e DECANT_API_KEYS_FILE=/run/secrets/decant-keys decant:0.1.0-cuda Qwen/Qwen3-8B
# Pin by digest where builds must repeat: --build-arg VLLM=vllm/vllm-openai@sha256:...
ARG VLLM=vllm/vllm-openai:v0.32.0
ARG CUDA=nvidia/cuda:13.0.1-devel-ubuntu22.04

FROM ${CUDA} AS toolkit

# The wheel is built beside the torch that it will run with; vLLM's image has no complete nvcc.
FROM ${VLLM} AS build
COPY --from=toolkit /usr/local/cuda-13.0 /opt/cuda
ENV CUDA_HOME=/opt/cuda PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
RUN python3 -m pip wheel -q --no-deps --no-build-isolation -w /wheels . \
    && python3 -m pip wheel -q --no-deps -w /wheels -r requirements/image.txt \
    && python3 deploy/image/require_operators.py /wheels cpu cuda

FROM ${VLLM}
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python3 -m pip install -q --no-cache-dir --no-deps --no-index --break-system-packages /wheels/*.whl \
    && useradd --uid 10001 --user-group --create-home decant \
    && mkdir -p /models && chown decant:decant /models \
    && decant --version
ENV HF_HOME=/models \
    DECANT_HOST=0.0.0.0 \
    DECANT_LOG_FORMAT=json \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1
USER 10001:10001
WORKDIR /home/decant
VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --start-interval=5s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('DECANT_PORT', '8000') + '/health', timeout=4)"]
ENTRYPOINT ["decant", "serve"]
CMD []
