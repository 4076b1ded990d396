"""What Prometheus reads: facts come in, text goes out, and nothing depends on it."""
