"""What each command of the console script does, as Python functions."""
