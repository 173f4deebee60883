"""One file for each change of the tables, oldest first; never changed once released."""
