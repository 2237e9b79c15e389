# The simulator: ManiSkill's bridge and the episodes, rendered on the CPU by Debian 13's Mesa.
#   docker build -f docker/sim.Dockerfile -t par-sim .
#   mkdir -p reports && docker run --rm -v "$PWD/reports:/reports" par-sim
# PyTorch's CPU index as PIP_EXTRA_INDEX_URL saves several GB:
#   docker build -f docker/sim.Dockerfile --build-arg PIP_EXTRA_INDEX_URL=... -t par-sim .

FROM python:3.11-slim-trixie AS build
ARG PIP_EXTRA_INDEX_URL
RUN python3 -m venv /opt/venv
WORKDIR /src
COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir -c constraints.txt ".[sim,ros,export]"

FROM python:3.11-slim-trixie
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libgl1 libglib2.0-0t64 libvulkan1 mesa-vulkan-drivers \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -m 1777 /reports
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
# Everything in one container; compose.sim.yaml starts the processes one by one.
CMD ["python", "-m", "par_ros", "sim", "report:=/reports/run"]
