"""Tokens: prepaid compute credit, kept as postings that sum to zero. See README.md."""
