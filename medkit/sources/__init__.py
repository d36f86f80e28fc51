"""Public and local sources of images: descriptors, downloads, archives."""
