# The policy process: torch and TensorRT on an NVIDIA base. Driver r580 or newer (CUDA 13).
#   docker build -f docker/policy.Dockerfile -t par-policy .
# It runs on a machine without a GPU too, in torch on the CPU.

FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
WORKDIR /src
COPY . .
# pip fetches TensorRT's libraries from NVIDIA, as its package says.
RUN /opt/venv/bin/pip install --no-cache-dir -c constraints.txt ".[ros,export,trt]"

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
# The compiler is for backend "compiled": Triton builds its launchers at run time. libgl1 and libglib are
# OpenCV's, which converts a camera's encodings.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc libc6-dev libgl1 libglib2.0-0t64 python3 python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    AMENT_PREFIX_PATH=/opt/venv \
    FASTDDS_DEFAULT_PROFILES_FILE=/opt/venv/share/par_ros/config/fastdds_shm.xml \
    FASTRTPS_DEFAULT_PROFILES_FILE=/opt/venv/share/par_ros/config/fastdds_shm.xml \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /tmp
STOPSIGNAL SIGINT
CMD ["policy_node"]
