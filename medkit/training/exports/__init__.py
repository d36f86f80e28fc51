"""A finished run as one model that runs without medkit."""
