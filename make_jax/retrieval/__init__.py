"""From vectors to results: embedding files, exact and approximate search, and the metrics that judge them."""
