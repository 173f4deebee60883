"""User numbers of the deployment's containers that a person must not have.

The hub sees the host's processes, and the kernel lets a user at all of its own. So hub
and gate have numbers that nobody else has: above those that hosts give to people (up to
60000), below those that systemd gives to services (from 61184). hub/Dockerfile and
docker-compose.yml say them as well.
"""

HUB = 61000
"""Of the hub, and of its group, which owns the gate's socket and the files that only
the hub may read."""
GATE = 61001
