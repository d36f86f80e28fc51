"""What ``medkit plugins new`` writes: a trainer's distribution, from templates."""
