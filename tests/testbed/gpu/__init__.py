"""GPUs without a GPU: a stand-in NVML library, its state, and its engine hook."""
