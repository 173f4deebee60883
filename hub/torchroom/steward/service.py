"""What jupyterhub_config.py says of the steward; imports nothing that is large."""

import sys
from collections.abc import Mapping

COMMAND = [sys.executable, "-m", "torchroom.steward"]
"""Of the hub's service; see `of_steward`."""
VARIABLES = (
    "TORCHROOM_DATA_DIR",
    "TORCHROOM_STEWARD_POLICY",
    "TORCHROOM_STEWARD_DRY_RUN",
    "TORCHROOM_SMTP_URL",
    "TORCHROOM_SMTP_CA_FILE",
    "TORCHROOM_MAIL_FROM",
    "TORCHROOM_MAIL_DOMAIN",
    "TORCHROOM_WEBHOOK_URL",
    "TORCHROOM_WEBHOOK_SECRET_FILE",
)
"""What the steward needs of the hub's environment; it inherits nothing else."""


def of_steward(env: Mapping[str, str]) -> dict[str, str]:
    """Return what of the environment the steward gets."""
    return {name: env[name] for name in VARIABLES if env.get(name)}
