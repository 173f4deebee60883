"""A JupyterHub spawner that leases exact NVIDIA GPUs to Docker containers."""

from gpuspawner.spawner import GPUDockerSpawner

__all__ = ["GPUDockerSpawner"]
