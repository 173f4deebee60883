"""A JupyterHub spawner that leases exact NVIDIA GPUs to Docker containers.

Load it by its entry point (`c.JupyterHub.spawner_class = "gpu-docker"`) or import
`gpuspawner.spawner.GPUDockerSpawner`.
"""
