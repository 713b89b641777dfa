"""What exists for speed alone. Each has a plain twin, written as the paper says it, and a test that both agree."""
