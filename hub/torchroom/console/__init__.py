"""The tokens' REST API and housekeeping, as a JupyterHub service. See docs/api.md."""
