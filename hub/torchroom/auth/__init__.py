"""Who gets in: identity providers, membership at every login and refresh, pace."""
