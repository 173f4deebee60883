"""The doctor: what of a machine or its settings is wrong, and how to mend it.

Standard library only: it runs on a bare host, too (``python3 -m torchroom.doctor``).
"""
