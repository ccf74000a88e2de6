"""Models on disk: names, manifests, and the files they point at."""
