"""Everything between the user's tables and the arrays a model reads; never imports make_jax."""
