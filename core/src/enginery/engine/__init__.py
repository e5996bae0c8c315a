"""Running engine servers: start, wait, swap, stop. The public names are in `enginery` itself."""
