"""jupyterhub-credit-service, measured beside the ledger, in its own environment."""
