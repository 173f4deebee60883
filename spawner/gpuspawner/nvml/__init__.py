"""Reads the machine's GPUs, in a process of its own. Nothing else imports pynvml.

An NVML call can hang on a sick GPU for ever, and only the end of its process ends it.
So the hub makes none: `gpuspawner.probe` runs ``python -m gpuspawner.nvml --serve`` and
kills it when it hangs. To start fast, this imports nothing else of the plugin.

    __main__   the program: the lines it is asked and answers by
    reader     all GPUs of the machine: which there are, and what can be asked
    events     what the driver reports without being asked
    sampling   what is read of one GPU or MIG instance in a sweep
    mig        how a GPU is split
    topology   what joins two GPUs, and which NUMA node is near
    nvlink     one GPU's NVLinks, and what is at their other ends
    ends       what may be at them, and how many links join two GPUs        pure
    gpu        a GPU as it is kept between two readings
    driver     is there an NVML that works
    calls      one call of NVML that may be refused
"""
