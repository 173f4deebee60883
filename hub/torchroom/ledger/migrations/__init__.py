"""How a ledger's tables become those of this version; `database.migrate` runs them."""
