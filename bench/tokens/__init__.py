"""What bench/ledger.py measures of our ledger, and the watch both sides are read by."""
