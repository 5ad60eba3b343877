"""One package, so that its head ends with it."""
