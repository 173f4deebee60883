"""The gate between the hub and the engine: lets pass only what servers need."""
