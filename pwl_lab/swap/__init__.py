"""Progressive weight loading, the network side: masks, orders, mixed networks, and the training of a pair."""
