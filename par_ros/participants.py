# SPDX-License-Identifier: Apache-2.0
"""How many DDS participants (ROS processes, mostly) of a domain this machine has.

With discovery range LOCALHOST, rmw_fastrtps looks for others at the ports of the first 32 only. A
process beyond them finds nobody, and nobody reports it.
"""

import os
from pathlib import Path

from rclpy.utilities import get_rmw_implementation_identifier

MAX_PARTICIPANTS = 32
# The RTPS specification's unicast discovery port: 7400 + 250 x domain + 10 + 2 x participant.
_FIRST_PORT, _PORTS_A_DOMAIN, _UNICAST = 7400, 250, 10
_MAX_ID = 119
_MAX_DOMAIN = 232
_LOCALHOST = "LOCALHOST"


def domain_id() -> int:
    """ROS_DOMAIN_ID, or 0. Raises ValueError where it is no domain."""
    text = os.environ.get("ROS_DOMAIN_ID", "") or "0"
    if not text.isdecimal() or int(text) > _MAX_DOMAIN:
        raise ValueError(
            f"ROS_DOMAIN_ID must be a number from 0 to {_MAX_DOMAIN}, got {text!r}; set it alike "
            "on all machines."
        )
    return int(text)


def require_room(num_more: int, udp_table: Path = Path("/proc/net/udp")) -> int:
    """How many participants there are. Raises ValueError where `num_more` find no place."""
    domain = domain_id()
    count = num_participants(domain, udp_table)
    is_local = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == _LOCALHOST
    is_limited = is_local and "fastrtps" in get_rmw_implementation_identifier()
    if is_limited and count + num_more > MAX_PARTICIPANTS:
        raise ValueError(
            f"ROS domain {domain} has {count} DDS participants on this machine and {num_more} more "
            f"are to start; with discovery range LOCALHOST only {MAX_PARTICIPANTS} find each "
            "other. End some, choose another domain (domain_id:=N), or set "
            "ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET for all."
        )
    return count


def num_participants(domain: int, udp_table: Path) -> int:
    """How many discovery ports of the domain are bound; 0 where Linux's table is not there."""
    try:
        lines = udp_table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return 0
    bound = {int(line.split()[1].rpartition(":")[2], 16) for line in lines}
    first = _FIRST_PORT + _PORTS_A_DOMAIN * domain + _UNICAST
    return sum(first + 2 * number in bound for number in range(_MAX_ID + 1))
