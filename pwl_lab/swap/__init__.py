"""Progressive weight loading, the network side: masks, orders, networks of mixed ownership, and the training of a pair."""
