"""The steward: who must be warned or stopped, and why."""
