# The arm side: guard and arm nodes, with ROS 2's own rclpy and ros2 commands. No CUDA, no torch.
#   docker build -f docker/arm.Dockerfile -t par-arm .

FROM ros:jazzy-ros-core AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        python3-numpy python3-scipy python3-venv python3-yaml \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --system-site-packages /opt/venv
WORKDIR /src
COPY . .
# setup.py names torch, which the arm side never loads: only what it does load is installed.
RUN /opt/venv/bin/pip install --no-cache-dir -c constraints.txt mcap pin ruckig \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps .

FROM ros:jazzy-ros-core
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        python3-numpy python3-scipy python3-yaml ros-jazzy-control-msgs \
        ros-jazzy-controller-manager-msgs \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    FASTDDS_DEFAULT_PROFILES_FILE=/opt/venv/share/par_ros/config/fastdds_shm.xml \
    FASTRTPS_DEFAULT_PROFILES_FILE=/opt/venv/share/par_ros/config/fastdds_shm.xml \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /tmp
STOPSIGNAL SIGINT
# The base image's entry point sources ROS.
CMD ["safety_node"]
