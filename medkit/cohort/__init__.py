"""Who is in which fold, and what leaks between folds."""
