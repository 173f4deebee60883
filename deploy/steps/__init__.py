"""The steps of `make up`, `make down` and `make purge`, one file per concern."""
