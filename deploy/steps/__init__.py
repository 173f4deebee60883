"""The steps of `make up` and of its counterparts.

They share with the hub what it knows of settings, engines and user numbers: rooms that
need nothing but Python.
"""

import sys

from toolbox.places import ROOT

sys.path.insert(0, str(ROOT / "hub"))
