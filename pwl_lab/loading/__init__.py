"""Progressive weight loading: converters, networks of mixed ownership, and the training of a pair."""
