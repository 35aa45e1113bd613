"""Load, faults and bad input for as long as one likes: `make soak` runs the long forms, `make test` the short ones."""
