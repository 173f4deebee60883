"""A class that starts its servers at once: two hubs, students, and what it costs."""
