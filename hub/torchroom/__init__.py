"""The application around the hub."""
