"""What the networks learn: batches, splits and a metric behind one `Task` protocol."""
