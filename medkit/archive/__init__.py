"""Study trees as few large files: lossless, standard, and byte for byte on return."""
