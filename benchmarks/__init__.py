"""What smg costs: `make bench`, and RESULTS.md for what came of it."""
