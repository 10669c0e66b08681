"""The page that `make-jax data inspect` writes."""
