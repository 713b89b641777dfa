"""Progressive weight loading, the byte side: bundles, where they come from, and a model that serves while it loads."""
