"""Loading by the clock: what answers how soon, each way measured in a process of its own."""
